"""Embed: a row of the weights for each index."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, weights_and_bias
from caffe_batch.schema import caffe_pb2


class Embed(TorchLayer):
    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return weights_and_bias(self.place.message.embed_param)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        rows = functional.embedding(bottoms[0].long(), blobs[0])
        return (rows + blobs[1] if len(blobs) > 1 else rows,)
