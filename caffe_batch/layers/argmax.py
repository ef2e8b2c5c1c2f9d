"""ArgMax: the indices of the largest values. Source: argmax_layer.cpp; host only."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    all_but_first,
    axis_index,
    count,
    refuse_backward,
)
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class ArgMaxSettings:
    out_max_val: bool = False
    top_k: int = 1
    axis: int | None = None


class ArgMax(Rule):
    type = "ArgMax"
    message = "argmax_param"
    settings = ArgMaxSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ArgMaxSettings = site.settings
        bottom = site.bottoms[0]
        if s.axis is None:
            axis_index(0, bottom)
            choices = count(bottom[1:])
            more = (1,) * (len(bottom) - 3)
            top = (bottom[0], 2 if s.out_max_val else 1, s.top_k, *more)
        else:
            axis = axis_index(s.axis, bottom)
            choices = bottom[axis]
            top = (*bottom[:axis], s.top_k, *bottom[axis + 1 :])
        if not 1 <= s.top_k <= choices:
            raise ShapeError(f"top_k {s.top_k} must lie between 1 and the {choices} values")
        return (top,)

    def coupling(self, site: Site) -> Coupling:
        axis = site.settings.axis
        joint = all_but_first(site) if axis is None else (axis_index(axis, site.bottoms[0]),)
        return Coupling(joint=joint)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        return Memory() if mode == "gpu" else Memory(forward=(bottom(0).data, top(0).data))
