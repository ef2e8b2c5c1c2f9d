"""PReLU: a ReLU with a learned slope per channel. Source: prelu_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    filled,
    four_axes,
)
from caffe_batch.layers.sides import bottom, own, param, top


@dataclass(frozen=True, slots=True)
class PReLUSettings:
    channel_shared: bool = False
    filler: str = "constant"


class PReLU(Rule):
    type = "PReLU"
    message = "prelu_param"
    settings = PReLUSettings
    works_in_place = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        four_axes(site.bottoms[0])
        if len(site.bottoms[0]) < 2:
            raise ShapeError(f"PReLU needs an input with a channel axis, not {site.bottoms[0]}")
        return site.bottoms

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: PReLUSettings = site.settings
        return (filled(() if s.channel_shared else (site.bottoms[0][1],), s.filler),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=() if site.settings.channel_shared else (1,))

    def memory(self, site: Site, mode: Mode) -> Memory:
        shape = site.bottoms[0]
        sample = count(shape[1:])
        forward = [bottom(0).data, top(0).data, param(0).data]
        backward = [top(0).diff]
        if site.in_place[0]:
            forward.append(own("bottom_memory_").data)
        if site.param_need[0]:
            backward.append(param(0).diff)
            if mode == "gpu":
                backward += [own("backward_buff_").diff, own("multiplier_").data]
        if site.bottom_need[0]:
            backward.append(bottom(0).diff)
        return Memory(
            buffers=(
                Buffer("bottom_memory_", count(shape)),
                Buffer("multiplier_", sample),
                Buffer("backward_buff_", sample),
            ),
            build=(own("multiplier_").data,) if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
