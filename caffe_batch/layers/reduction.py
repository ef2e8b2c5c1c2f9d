"""Reduction: sums over all axes from a given one on. Source: reduction_layer.cpp, .cu.

On the GPU the result is written through the host's copy of the top, and the top's gradient is read
there too; the device sees the top's data only if a coefficient is multiplied in, and never the
diff.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axis_index,
    count,
    not_empty,
)
from caffe_batch.layers.sides import Side, bottom, own, top

_LINEAR = ("SUM", "MEAN")  # these multiply by a vector of ones


@dataclass(frozen=True, slots=True)
class ReductionSettings:
    operation: str = "SUM"
    axis: int = 0
    coeff: float = 1.0


class Reduction(Rule):
    type = "Reduction"
    message = "reduction_param"
    settings = ReductionSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ReductionSettings = site.settings
        bottom = site.bottoms[0]
        axis = axis_index(s.axis, bottom)
        if s.operation in _LINEAR:
            not_empty(bottom[axis:])
        return (bottom[:axis],)

    def coupling(self, site: Site) -> Coupling:
        s: ReductionSettings = site.settings
        mean = s.operation == "MEAN"
        reduced = count(site.bottoms[0][axis_index(s.axis, site.bottoms[0]) :])
        linear = s.operation in _LINEAR
        return Coupling(divisor=reduced if mean else 1, linear=linear, affine=linear)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: ReductionSettings = site.settings
        shape = site.bottoms[0]
        reduced = count(shape[axis_index(s.axis, shape) :])
        linear = s.operation in _LINEAR
        ones = (own("sum_multiplier_").data,) if linear else ()
        forward = [bottom(0).data, *ones]
        scaled = s.coeff != (reduced if s.operation == "MEAN" else 1)
        if mode == "cpu" or scaled:
            forward += [top(0).data]
        backward: list[Side] = []
        if site.bottom_need[0]:
            backward += [bottom(0).diff]
            if not linear:
                backward += [bottom(0).data]
            if mode == "cpu":
                backward += [top(0).diff]
        return Memory(
            buffers=(Buffer("sum_multiplier_", reduced),) if linear else (),
            build=ones if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
