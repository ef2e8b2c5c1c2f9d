"""Element-wise layers: y = f(x).

In place, Caffe's Backward finds y where x was. Most of these layers don't mind: their derivative
follows from y, or from the sign of x, which y has too. For the others (BNLL, Clip, Log, Power, and
ReLU and ELU with a negative slope) the gradient in place is the derivative at y; Log and Power even
lose the gradient that comes in, because they write the derivative into the same memory first.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Plain, imitate


class Neuron(Plain):
    """Gradients as Caffe has them, in place and otherwise.

    Attributes:
        by_input: Whether Caffe's Backward reads the input where the sign isn't all that counts.
    """

    by_input = False

    def function(self, x: Tensor) -> Tensor:
        if self.by_input and self.place.in_place:
            with torch.no_grad():
                y = self.value(x)
            return imitate(y, lambda gradient: (self._derivative_at(y, gradient),), x)
        return self.value(x)

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """f(x)."""

    def _derivative_at(self, y: Tensor, gradient: Tensor) -> Tensor:
        with torch.enable_grad():
            there = y.detach().requires_grad_()
            return torch.autograd.grad(self.value(there), there, gradient)[0]


class ReLU(Neuron):
    """Attributes:
    overwrites: Whether it may write over its bottom: the layer before it must be ``fresh``.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.slope = place.message.relu_param.negative_slope
        self.by_input = self.slope < 0
        self.overwrites = False

    def value(self, x: Tensor) -> Tensor:
        if self.slope:
            return functional.leaky_relu(x, self.slope)
        return torch.relu_(x) if self.overwrites else torch.relu(x)


class Sigmoid(Neuron):
    def value(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


class TanH(Neuron):
    def value(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class BNLL(Neuron):
    by_input = True

    def value(self, x: Tensor) -> Tensor:
        return functional.softplus(x)


class ELU(Neuron):
    """In place with a negative alpha, Caffe sees a positive y and takes it for a positive x."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.alpha = place.message.elu_param.alpha

    def function(self, x: Tensor) -> Tensor:
        y = self.value(x)
        if self.alpha >= 0 or not self.place.in_place:
            return y
        slope = torch.where(y > 0, 1, self.alpha + y).detach()
        return imitate(y, lambda gradient: (gradient * slope,), x)

    def value(self, x: Tensor) -> Tensor:
        return functional.elu(x, self.alpha)


class Clip(Neuron):
    by_input = True

    def value(self, x: Tensor) -> Tensor:
        limits = self.place.message.clip_param
        return torch.clamp(x, limits.min, limits.max)


class AbsVal(Neuron):
    def value(self, x: Tensor) -> Tensor:
        return torch.abs(x)


class Threshold(Neuron):
    def value(self, x: Tensor) -> Tensor:
        return (x > self.place.message.threshold_param.threshold).to(x.dtype)


class Exp(Neuron):
    """base ^ (shift + scale * x); a base of -1 stands for e."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.exp_param
        self.inner = s.scale * (1 if s.base == -1 else math.log(s.base))
        self.outer = math.exp(s.shift) if s.base == -1 else s.base**s.shift

    def value(self, x: Tensor) -> Tensor:
        y = torch.exp(x * self.inner)
        return y if self.outer == 1 else y * self.outer


class Log(Neuron):
    """log(shift + scale * x) to a base; -1 stands for e."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.log_param
        self.scale, self.shift = s.scale, s.shift
        self.factor = 1 / (1 if s.base == -1 else math.log(s.base))

    def function(self, x: Tensor) -> Tensor:
        y = self.value(x)
        if not self.place.in_place:
            return y
        derivative = self.scale * self.factor / (y.detach() * self.scale + self.shift)
        return imitate(y, lambda gradient: (derivative * derivative,), x)

    def value(self, x: Tensor) -> Tensor:
        return torch.log(x * self.scale + self.shift) * self.factor


class Power(Neuron):
    """(shift + scale * x) ^ power; the derivative as Caffe calculates it, in three ways."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.power_param
        self.power, self.scale, self.shift = s.power, s.scale, s.shift

    def function(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.value(x)
        if self.place.in_place:
            square = self._derivative(y, y).square()
            return imitate(y, lambda gradient: (square,), x)
        return imitate(y, lambda gradient: (gradient * self._derivative(x.detach(), y),), x)

    def value(self, x: Tensor) -> Tensor:
        if self.power * self.scale == 0:
            return torch.full_like(x, 1 if self.power == 0 else self.shift**self.power)
        base = x if self.scale == 1 else x * self.scale
        base = base + self.shift if self.shift else base
        return base if self.power == 1 else base**self.power

    def _derivative(self, x: Tensor, y: Tensor) -> Tensor:
        """Of y by x, given the data that Backward finds (power_layer.cpp, Backward_cpu)."""
        factor = self.power * self.scale
        if factor == 0 or self.power == 1:
            return torch.full_like(x, factor)
        if self.power == 2:
            return x * (factor * self.scale) + factor * self.shift
        if self.shift == 0:
            return y / x * self.power
        return y / (x * self.scale + self.shift) * factor


class Swish(Neuron):
    def value(self, x: Tensor) -> Tensor:
        beta = self.place.message.swish_param.beta
        return functional.silu(x) if beta == 1 else x * torch.sigmoid(x * beta)


class Dropout(Plain):
    """Zeros with the probability dropout_ratio, the rest scaled up; in TEST the identity."""

    drawn = True

    def function(self, x: Tensor) -> Tensor:
        ratio = self.place.message.dropout_param.dropout_ratio
        return functional.dropout(x, ratio, training=self.place.site.phase == "TRAIN")
