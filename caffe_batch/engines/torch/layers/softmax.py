"""Softmax along one axis."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Plain


class Softmax(Plain):
    def function(self, x: Tensor) -> Tensor:
        return functional.softmax(x, self.place.message.softmax_param.axis)
