"""Normalize and L2Normalization: each position, or each sample, divided by its norm."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain, Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class Normalize(TorchLayer):
    """SSD's, with a learned scale. ``eps`` is added to the sum of the squares."""

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        s = self.place.message.norm_param
        if s.HasField("scale_filler"):
            return (s.scale_filler,)
        return (caffe_pb2.FillerParameter(type="constant", value=1),)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        (x,), (scale,) = bottoms, blobs
        s = self.place.message.norm_param
        axes = tuple(range(1, x.dim())) if s.across_spatial else (1,)
        norm = (x.square().sum(axes, keepdim=True) + s.eps).sqrt()
        return (x / norm * scale.view(1, -1, *(1,) * (x.dim() - 2)),)


class L2Normalization(Plain):
    """The sum over the channels of a position, or over the positions of a channel."""

    def function(self, x: Tensor) -> Tensor:
        axes = (1,) if self.place.settings.channel_wise else (2, 3)
        return x / x.square().sum(axes, keepdim=True).sqrt()
