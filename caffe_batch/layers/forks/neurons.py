"""Element-wise layers of forks: ReLU6, SeLu, and slopes drawn at random (Insanity, RReLU).

Source: eric612/MobileNet-YOLO, relu6_layer.cpp; selu_layer.cpp, as published with
``selu_param = 161``; happynear/caffe-windows (ms), insanity_layer.cpp, .cu; ducha-aiki/caffe,
rrelu_layer.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Coupling, Memory, Mode, Phase, Shape, Site, count
from caffe_batch.layers.neurons import Dropout, Neuron
from caffe_batch.layers.sides import Side, bottom, own, top


class ReLU6(Neuron):
    type = "ReLU6"
    other_messages = ("relu_param",)
    follows = "eric612/MobileNet-YOLO: relu6_layer.cpp"


class SeLu(Neuron):
    type = "SeLu"
    message = "selu_param"
    follows = "selu_layer.cpp"


class RandomSlope(Neuron):
    """What Insanity and RReLU have in common: a slope for each element, drawn in TRAIN."""

    def draws(self, settings: Any, phase: Phase) -> bool:
        return phase == "TRAIN"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase))


@dataclass(frozen=True, slots=True)
class InsanitySettings:
    lb: float = 5.0
    ub: float = 10.0


class Insanity(RandomSlope):
    """Its CPU code takes the pointer of the slopes in both phases."""

    type = "Insanity"
    message = "insanity_param"
    settings = InsanitySettings
    follows = "happynear/caffe-windows: insanity_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InsanitySettings = site.settings
        if len(site.bottoms[0]) < 2:
            raise ShapeError(f"Insanity needs an input of at least 2 axes, not {site.bottoms[0]}")
        if s.ub <= s.lb or s.lb * s.ub == 0:
            raise ShapeError(f"lb {s.lb:g} must be below ub {s.ub:g}, and neither may be 0")
        return site.bottoms

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: InsanitySettings = site.settings
        size, slopes = count(site.bottoms[0]), own("alpha").data
        copied = (own("bottom_memory_").data,) if site.in_place[0] and s.lb < 0 else ()
        drawn = (slopes,) if site.phase == "TRAIN" or mode == "cpu" else ()
        backward: tuple[Side, ...] = ()
        if site.bottom_need[0]:
            backward = (top(0).diff, bottom(0).diff, slopes)
        return Memory(
            buffers=(Buffer("alpha", size), Buffer("bottom_memory_", size)),
            forward=(bottom(0).data, top(0).data, *drawn, *copied),
            backward=backward,
        )


class RReLU(RandomSlope):
    type = "RReLU"
    message = "rrelu_param"
    follows = "ducha-aiki/caffe: rrelu_layer.cpp"

    def memory(self, site: Site, mode: Mode) -> Memory:
        slopes = (own("rand_vec_").data,) if site.phase == "TRAIN" else ()
        return Memory(
            buffers=(Buffer("rand_vec_", count(site.bottoms[0])),),
            forward=(bottom(0).data, top(0).data, *slopes),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


class SpatialDropout(Dropout):
    """Dropout of whole channels: a number for each channel of each sample."""

    type = "SpatialDropout"
    other_messages = ("spatial_dropout_param",)
    follows = "peteflorence/caffe_FAST, jtetrea/caffe-enet: spatial_dropout_layer.cpp, .cu"

    def memory(self, site: Site, mode: Mode) -> Memory:
        memory = super().memory(site, mode)
        return replace(memory, buffers=(Buffer("rand_vec_", count(site.bottoms[0][:2])),))
