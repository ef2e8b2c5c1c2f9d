"""Parameter: a learnable blob as a top."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class Parameter(TorchLayer):
    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return (caffe_pb2.FillerParameter(),)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (blobs[0].view_as(blobs[0]),)
