"""Softmax over one axis. Source: softmax_layer.cpp, .cu; layer_factory.cpp for the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    needed_diffs,
    not_empty,
    without_buffers,
)
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.sides import bottom, own, top


@dataclass(frozen=True, slots=True)
class SoftmaxSettings:
    engine: str = "DEFAULT"
    axis: int = 1


class Softmax(Rule):
    type = "Softmax"
    message = "softmax_param"
    settings = SoftmaxSettings
    works_in_place = True
    reads_top = ReadsTop.ALWAYS

    def shape(self, site: Site) -> tuple[Shape, ...]:
        bottom = site.bottoms[0]
        not_empty((bottom[axis_index(site.settings.axis, bottom)],))
        return site.bottoms

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(axis_index(site.settings.axis, site.bottoms[0]),))

    def memory(self, site: Site, mode: Mode) -> Memory:
        buffers = softmax_buffers(site.bottoms[0], site.settings.axis)
        # On the GPU the ones of sum_multiplier_ stay on the host: a kernel sums instead.
        return Memory(
            buffers=buffers,
            build=(own("sum_multiplier_").data,) if mode == "cpu" else (),
            forward=(bottom(0).data, top(0).data, own("scale_").data),
            backward=(top(0).diff, top(0).data, bottom(0).diff, own("scale_").data),
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        if site.settings.engine == "CAFFE":
            return memory
        diffs = needed_diffs(site)  # none: Backward returns at once
        return replace(
            without_buffers(memory, "scale_"), backward=(top(0).diff, *diffs) if diffs else ()
        )


def softmax_buffers(bottom: Shape, axis: int) -> tuple[Buffer, ...]:
    """What a Softmax of this shape owns; losses have one inside and so own the same.

    ``scale_`` has one element for each softmax; ``sum_multiplier_`` one for each class.
    """
    classes = bottom[axis_index(axis, bottom)]
    softmaxes = count(bottom) // classes if classes else 0
    return (Buffer("scale_", softmaxes), Buffer("sum_multiplier_", classes))
