"""MVN: each image (or channel) to mean 0 and variance 1."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain, imitate
from caffe_batch.layers.base import four_axes


class MVN(Plain):
    """Divides by deviation + eps, and its Backward takes that sum for the deviation."""

    def needs(self) -> tuple[bool, ...]:
        """Caffe's Backward doesn't look at propagate_down."""
        return (self.place.site.backward,)

    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.mvn_param
        shape = four_axes(tuple(x.shape))
        groups = x.reshape(shape[0] if s.across_channels else shape[0] * shape[1], -1)
        if not s.normalize_variance:
            return (groups - groups.mean(1, keepdim=True)).view(shape)
        with torch.no_grad():
            centred = groups - groups.mean(1, keepdim=True)
            divisor = centred.square().mean(1, keepdim=True).sqrt() + s.eps
            y = centred / divisor

        def backward(gradient: Tensor) -> tuple[Tensor]:
            mean = gradient.mean(1, keepdim=True)
            if self.place.in_place:  # each step overwrites the gradient that the next one reads
                along = y * (gradient * y).sum(1, keepdim=True)
                mixed = along + along.sum(1, keepdim=True)
                return (mixed * (-2 / y.shape[1]) / divisor,)
            along = (gradient * y).mean(1, keepdim=True)
            return ((gradient - mean - y * along) / divisor,)

        return imitate(y, backward, groups).view(shape)
