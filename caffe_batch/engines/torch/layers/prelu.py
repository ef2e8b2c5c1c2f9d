"""PReLU: a learned slope for negative inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class PReLU(TorchLayer):
    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        s = self.place.message.prelu_param
        return [s.filler if s.HasField("filler") else caffe_pb2.FillerParameter(value=0.25)]

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (functional.prelu(bottoms[0], blobs[0].reshape(-1)),)
