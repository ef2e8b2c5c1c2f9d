"""Tile: copies side by side along one axis. Source: tile_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, axis_index
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class TileSettings:
    axis: int = 1
    tiles: int | None = None


class Tile(Rule):
    type = "Tile"
    copies = Copies.IN_ORDER
    message = "tile_param"
    settings = TileSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: TileSettings = site.settings
        bottom = site.bottoms[0]
        axis = axis_index(s.axis, bottom)
        if s.tiles is None or s.tiles < 1:
            raise ShapeError("tile_param needs tiles, at least 1")
        return ((*bottom[:axis], bottom[axis] * s.tiles, *bottom[axis + 1 :]),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(
            along=axis_index(site.settings.axis, site.bottoms[0]), linear=True, affine=True
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            forward=(bottom(0).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )
