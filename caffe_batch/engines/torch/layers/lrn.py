"""LRN: local response normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Plain, imitate


class LRN(Plain):
    """Across channels: x * (k + alpha/n * sum of n squares)^-beta.

    Within a channel: x * (1 + alpha * average of n*n squares)^-beta; Caffe ignores k there.
    In place, Caffe reads what it has already overwritten, in Forward and in Backward.
    """

    def needs(self) -> tuple[bool, ...]:
        """Across channels, Caffe's Backward doesn't look at propagate_down."""
        s, site = self.place.message.lrn_param, self.place.site
        return super().needs() if s.norm_region == s.WITHIN_CHANNEL else (site.backward,)

    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.lrn_param
        if s.norm_region == s.WITHIN_CHANNEL:
            return self._within(x)
        if self.place.in_place:
            return self._across_in_place(x)
        return x * self._scale(x).pow(-s.beta)

    def _scale(self, x: Tensor) -> Tensor:
        s = self.place.message.lrn_param
        return self._channel_sums(x * x) * (s.alpha / s.local_size) + s.k

    def _channel_sums(self, x: Tensor) -> Tensor:
        """The sum of each channel and its neighbours, as shifted slices: the fastest way."""
        reach = (self.place.message.lrn_param.local_size - 1) // 2
        channels = x.shape[1]
        padded = functional.pad(x, (0, 0, 0, 0, reach, reach))
        total = padded[:, :channels]
        for shift in range(1, 2 * reach + 1):
            total = total + padded[:, shift : shift + channels]
        return total

    def _across_in_place(self, x: Tensor) -> Tensor:
        s = self.place.message.lrn_param
        with torch.no_grad():
            scale = self._scale(x)
            power = scale.pow(-s.beta)
            y = power * power  # the power is written over the input

        def backward(gradient: Tensor) -> tuple[Tensor]:
            sums = self._channel_sums(y * y / scale)  # y is the gradient, too: that is lost
            return (y - y * sums * (2 * s.alpha * s.beta / s.local_size),)

        return imitate(y, backward, x)

    def _within(self, x: Tensor) -> Tensor:
        if not self.place.in_place:
            return x * self._power(x * x)
        with torch.no_grad():
            squares = x * x
            power = self._power(squares)
            y = x * power

        def backward(gradient: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                there = squares.detach().requires_grad_()
                (into,) = torch.autograd.grad(self._power(there), there, gradient * y)
            return (gradient * power + 2 * y * into,)

        return imitate(y, backward, x)

    def _power(self, squares: Tensor) -> Tensor:
        s = self.place.message.lrn_param
        mean = functional.avg_pool2d(squares, s.local_size, 1, (s.local_size - 1) // 2)
        return (mean * s.alpha + 1).pow(-s.beta)
