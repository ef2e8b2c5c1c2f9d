"""Scale and Bias: multiply by, or add, a smaller blob along given axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class Scale(TorchLayer):
    """The factor is a parameter, or the second bottom; there may be a term, too."""

    fresh = True

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        s = self.place.message.scale_param
        fillers = []
        if len(self.place.site.bottoms) == 1:
            ones = caffe_pb2.FillerParameter(value=1)
            fillers.append(s.filler if s.HasField("filler") else ones)
        if s.bias_term:
            fillers.append(s.bias_filler)
        return fillers

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.scale_param
        x = bottoms[0]
        factor, *bias = (*bottoms[1:], *blobs)
        y = x * _along(factor, x, s.axis)
        return (y + _along(bias[0], x, s.axis) if bias else y,)


class Bias(TorchLayer):
    fresh = True

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        learned = len(self.place.site.bottoms) == 1
        return [self.place.message.bias_param.filler] if learned else []

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x = bottoms[0]
        (term,) = (*bottoms[1:], *blobs)
        return (x + _along(term, x, self.place.message.bias_param.axis),)


def _along(operand: Tensor, x: Tensor, axis: int) -> Tensor:
    """The operand with axes of 1 after it, so that it lies along the axes of x from ``axis``."""
    start = axis % x.dim() if operand.dim() else x.dim()
    return operand.reshape((*operand.shape, *(1,) * (x.dim() - start - operand.dim())))
