"""Reduction: sums over all axes from a given one on."""

from __future__ import annotations

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class Reduction(Plain):
    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.reduction_param
        rows = x.flatten(s.axis % x.dim()) if x.dim() else x.reshape(1)
        if s.operation == s.ASUM:
            rows = rows.abs()
        elif s.operation == s.SUMSQ:
            rows = rows.square()
        coefficient = s.coeff / rows.shape[-1] if s.operation == s.MEAN else s.coeff
        total = rows.sum(-1)
        return total if coefficient == 1 else total * coefficient
