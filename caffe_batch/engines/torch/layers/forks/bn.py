"""BN: normalisation over the batch with a learned slope and bias, PSPNet's and SegNet's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2

#: SegNet's, which no field says (bn_layer.cpp, LayerSetUp).
SEGNET_EPS = 1e-9


class BN(TorchLayer):
    """PSPNet's: blobs are slope, bias and the moving averages of mean and variance.

    The averages are of the batch's own mean and biased variance. In TEST, or frozen, they take the
    place of the batch's, and frozen the slope and the bias don't learn.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.bn_param
        self.frozen: bool = s.frozen
        self.fixed = s.frozen or place.site.phase == "TEST"
        self.drawn = not self.fixed  # a pass changes the averages

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        s = self.place.message.bn_param
        zero = caffe_pb2.FillerParameter()
        known = caffe_pb2.FillerParameter(value=1 if s.frozen else 0)
        return s.slope_filler, s.bias_filler, zero, known

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        (x,), (slope, bias, mean, variance) = bottoms, blobs
        s = self.place.message.bn_param
        x = _four(x)
        if self.fixed:
            centre, spread = mean.detach(), variance.detach()
        else:
            centre = x.mean((0, 2, 3), keepdim=True)
            spread = (x - centre).square().mean((0, 2, 3), keepdim=True)
            with torch.no_grad():
                mean.mul_(s.momentum).add_(centre.view_as(mean), alpha=1 - s.momentum)
                variance.mul_(s.momentum).add_(spread.view_as(variance), alpha=1 - s.momentum)
        if self.frozen:
            slope, bias = slope.detach(), bias.detach()
        y = (x - centre) * (spread + s.eps).rsqrt() * slope + bias
        return (y.view(bottoms[0].shape),)


class SegNetBN(TorchLayer):
    """SegNet's: blobs are scale and shift; the statistics are the batch's in both phases.

    With ``bn_mode: INFERENCE`` it scales and shifts only. Further tops are mean and variance.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.learns: bool = place.settings.bn_mode == "LEARN"

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        s = self.place.message.bn_param
        return s.scale_filler, s.shift_filler

    def needs(self) -> tuple[bool, ...]:
        """Its Backward doesn't look at propagate_down."""
        return (self.place.site.backward,)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        (x,), (scale, shift) = bottoms, blobs
        if not self.learns:
            return (_four(x).mul(scale).add(shift).view(x.shape),)
        four = _four(x)
        mean = four.mean((0, 2, 3), keepdim=True)
        centred = four - mean
        variance = centred.square().mean((0, 2, 3), keepdim=True)
        y = centred * (variance + SEGNET_EPS).rsqrt() * scale + shift
        return (y.view(x.shape), mean.detach(), variance.detach())[: self.place.site.tops]


def _four(x: Tensor) -> Tensor:
    """The input as (N, C, H, W)."""
    return x.reshape(*x.shape, *(1,) * (4 - x.dim()))
