"""Eltwise: sum, product or maximum of blobs, element by element."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer, imitate


class Eltwise(TorchLayer):
    """Of equal maxima the second bottom gets all of the gradient, otherwise the earlier one.

    In place, the top's memory is that of bottom 0: a sum or a maximum loses that bottom, because
    Caffe first sets the top to zero, or to the least number; and the gradient of bottom 0 is
    written over that of the top before the other bottoms get theirs.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.eltwise_param
        self.fresh = s.operation == s.SUM and not place.in_place

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.eltwise_param
        if s.operation == s.SUM:
            return (self._sum(bottoms),)
        if s.operation == s.PROD:
            return (self._product(bottoms),)
        return (self._maximum(bottoms),)

    def _sum(self, bottoms: Tensors) -> Tensor:
        factors = list(self.place.message.eltwise_param.coeff) or [1.0] * len(bottoms)
        if not self.place.in_place:
            return _weighted_sum(bottoms, factors)
        with torch.no_grad():
            y = _weighted_sum(bottoms[1:], factors[1:])
        first = factors[0] if bottoms[0].requires_grad else 1.0

        def backward(gradient: Tensor) -> list[Tensor]:
            over = gradient * first
            return [over, *(over * factor for factor in factors[1:])]

        return imitate(y, backward, *bottoms)

    def _product(self, bottoms: Tensors) -> Tensor:
        stable = self.place.message.eltwise_param.stable_prod_grad
        in_place = self.place.in_place
        if stable and not in_place:
            return reduce(torch.mul, bottoms)
        with torch.no_grad():
            y = reduce(torch.mul, bottoms)
        found = [y if in_place else bottoms[0].detach(), *(b.detach() for b in bottoms[1:])]

        def others(i: int) -> Tensor:
            if not stable:
                return y / found[i]
            return reduce(torch.mul, [b for j, b in enumerate(found) if j != i])

        def backward(gradient: Tensor) -> list[Tensor]:
            out = []
            for i, bottom in enumerate(bottoms):
                product = others(i)
                if i == 0 and in_place and bottom.requires_grad:
                    gradient = product
                out.append(gradient * product)
                if i == 0 and in_place and bottom.requires_grad:
                    gradient = out[0]
            return out

        return imitate(y, backward, *bottoms)

    def _maximum(self, bottoms: Tensors) -> Tensor:
        in_place = self.place.in_place
        found = [bottom.detach() for bottom in bottoms]
        y, largest = (found[1], torch.ones_like(found[1])) if in_place else (
            torch.where(found[0] > found[1], found[0], found[1]),
            torch.where(found[0] > found[1], 0, 1),
        )  # fmt: skip
        for i, bottom in enumerate(found[2:], start=2):
            largest = torch.where(bottom > y, i, largest)
            y = torch.where(bottom > y, bottom, y)
        lost = in_place and bottoms[0].requires_grad

        def backward(gradient: Tensor) -> list[Tensor]:
            if lost:
                return [torch.zeros_like(gradient)] * len(bottoms)
            return [torch.where(largest == i, gradient, 0) for i in range(len(bottoms))]

        return imitate(y, backward, *bottoms)


def _weighted_sum(bottoms: Tensors, factors: list[float]) -> Tensor:
    terms = [b if f == 1 else b * f for b, f in zip(bottoms, factors, strict=True)]
    return reduce(torch.add, terms)
