"""Flip: feature maps mirrored. Source: happynear/caffe-windows (ms), flip_layer.cpp, .cu."""

from __future__ import annotations

from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, four_axes
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, top


class Flip(Rule):
    type = "Flip"
    message = "flip_param"
    copies = Copies.SOME
    follows = "happynear/caffe-windows: flip_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        four_axes(site.bottoms[0])
        return site.bottoms

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(2, 3), linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(forward=(bottom(0).data, top(0).data), backward=(top(0).diff, bottom(0).diff))
