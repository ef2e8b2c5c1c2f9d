"""Element-wise layers of forks: ReLU6, SeLu, slopes drawn at random, Dropout of channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Plain, imitate
from caffe_batch.engines.torch.layers.neurons import Neuron


class ReLU6(Neuron):
    """The slope below 0, and 0 from 6 on; in place the signs and the limit are there still."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.slope: float = place.message.relu_param.negative_slope
        self.by_input = self.slope < 0

    def value(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(x, self.slope) if self.slope else torch.relu(x)
        return torch.where(y < 6, y, y.new_full((), 6))


class SeLu(Neuron):
    """lambda * x above 0, else lambda * alpha * (exp(x) - 1)."""

    def value(self, x: Tensor) -> Tensor:
        s = self.place.message.selu_param
        factor: float = getattr(s, "lambda")
        return factor * functional.elu(x, s.alpha)


class Insanity(Plain):
    """Below 0 divided by a number from lb to ub, drawn for each element; in TEST by a mean."""

    drawn = True

    def function(self, x: Tensor) -> Tensor:
        low, high = self.place.settings.lb, self.place.settings.ub
        if self.place.site.phase == "TRAIN":
            divisors = torch.empty_like(x, requires_grad=False).uniform_(low, high)
        else:
            mean = (high - low) / (math.log(abs(high)) - math.log(abs(low)))
            divisors = torch.full_like(x, mean, requires_grad=False)
        slopes = torch.where(x.detach() > 0, 1, 1 / divisors)
        return imitate(x.detach() * slopes, lambda gradient: (gradient * slopes,), x)


class SpatialDropout(Plain):
    """Whole channels become zeros, the rest is scaled up; in TEST the identity."""

    drawn = True

    def function(self, x: Tensor) -> Tensor:
        s = self.place.message
        given = s.spatial_dropout_param if s.HasField("spatial_dropout_param") else s.dropout_param
        ratio, train = given.dropout_ratio, self.place.site.phase == "TRAIN"
        kept = functional.dropout(torch.ones_like(x[:, :, :1, :1]), ratio, training=train)
        return x * kept
