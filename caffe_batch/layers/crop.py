"""Crop: bottom 0 cut down to the size of bottom 1. Source: crop_layer.cpp, .cu."""

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
    axes_from,
    axis_index,
)
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, own, top

_TABLES = ("offsets", "src_strides_", "dest_strides_")  # one int per axis


@dataclass(frozen=True, slots=True)
class CropSettings:
    axis: int = 2
    offset: tuple[int, ...] = ()


class Crop(Rule):
    type = "Crop"
    message = "crop_param"
    settings = CropSettings
    bottoms = (2, 2)
    copies = Copies.SOME

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: CropSettings = site.settings
        data, reference = site.bottoms
        axis = axis_index(s.axis, data)
        cropped = len(data) - axis
        if len(s.offset) > 1 and len(s.offset) != cropped:
            raise ShapeError(f"{len(s.offset)} offsets for {cropped} cropped axes")
        if len(reference) < len(data):
            raise ShapeError(
                f"bottom 1 {reference} gives the size; it needs {len(data)} axes like bottom 0"
            )
        offsets = s.offset if len(s.offset) > 1 else (s.offset or (0,)) * cropped
        for i, offset in enumerate(offsets, start=axis):
            if offset + reference[i] > data[i]:
                raise ShapeError(
                    f"can't cut {reference[i]} from axis {i} of {data} at offset {offset}"
                )
        return ((*data[:axis], *reference[axis : len(data)]),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=axes_from(site.settings.axis, site.bottoms[0]))

    def memory(self, site: Site, mode: Mode) -> Memory:
        tables = tuple([own(name).data for name in _TABLES])
        axes = len(site.bottoms[0])
        # Backward takes the pointers of both diffs before it checks which are needed.
        return Memory(
            buffers=tuple([Buffer(name, axes) for name in _TABLES]),
            build=tables if mode == "cpu" else (),
            forward=(bottom(0).data, top(0).data, *tables),
            backward=(top(0).diff, bottom(0).diff),
        )
