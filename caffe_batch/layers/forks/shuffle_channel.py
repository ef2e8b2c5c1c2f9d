"""ShuffleChannel: the channels of groups in turn.

Source: farmingyard/ShuffleNet, shuffle_channel_layer.cpp, .cu.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, four_axes
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class ShuffleChannelSettings:
    group: int = 1


class ShuffleChannel(Rule):
    type = "ShuffleChannel"
    message = "shuffle_channel_param"
    settings = ShuffleChannelSettings
    copies = Copies.SOME
    follows = "farmingyard/ShuffleNet: shuffle_channel_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ShuffleChannelSettings = site.settings
        shape = four_axes(site.bottoms[0])
        if s.group == 0 or shape[1] % s.group:
            raise ShapeError(f"group {s.group} doesn't divide the {shape[1]} channels")
        return (shape,)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(1,), linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            forward=(bottom(0).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )
