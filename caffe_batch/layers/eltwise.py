"""Eltwise: sum, product or maximum of blobs, element by element. Source: eltwise_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Coupling, Memory, Mode, Rule, Shape, Site, count
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.sides import bottom, own, sides, top


@dataclass(frozen=True, slots=True)
class EltwiseSettings:
    operation: str = "SUM"
    coeff: tuple[float, ...] = ()
    stable_prod_grad: bool = True


class Eltwise(Rule):
    type = "Eltwise"
    message = "eltwise_param"
    settings = EltwiseSettings
    bottoms = (2, None)
    may_share_top = True
    works_in_place = True
    reads_top = ReadsTop.IN_PLACE

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: EltwiseSettings = site.settings
        if s.coeff and len(s.coeff) != len(site.bottoms):
            raise ShapeError(f"{len(s.coeff)} coeff value(s) for {len(site.bottoms)} bottoms")
        if s.coeff and s.operation == "PROD":
            raise ShapeError("a product takes no coeff", hint="Use operation: SUM, or no coeff.")
        for i, shape in enumerate(site.bottoms):
            if shape != site.bottoms[0]:
                raise ShapeError(
                    f"bottom 0 {site.bottoms[0]} and bottom {i} {shape} must have the same shape"
                )
        return site.bottoms[:1]

    def coupling(self, site: Site) -> Coupling:
        """A product computes its derivative in the memory of the gradient of bottom 0."""
        summed = site.settings.operation == "SUM"
        product = site.settings.operation == "PROD"
        return Coupling(linear=summed, affine=summed, rereads=product)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: EltwiseSettings = site.settings
        inputs = sides(bottom, len(site.bottoms), "data")
        # Backward takes the pointers of the top first, whichever gradients are needed.
        backward = [top(0).data, top(0).diff]
        for i, need in enumerate(site.bottom_need):
            if need:
                backward += [bottom(i).diff, bottom(i).data]
                if s.operation == "PROD" and s.stable_prod_grad:
                    backward += inputs
        largest = s.operation == "MAX"
        mask = (own("max_idx_").data,) if largest else ()
        return Memory(
            buffers=(Buffer("max_idx_", count(site.bottoms[0])),) if largest else (),
            forward=(*inputs, top(0).data, *mask),
            backward=tuple(backward),
        )
