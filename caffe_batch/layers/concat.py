"""Concat and Slice: blobs joined and cut along one axis.

Source: concat_layer.cpp, .cu; slice_layer.cpp, .cu.

With a single bottom (Concat) or top (Slice) nothing is copied: data and diff are shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axis_index,
    needed_diffs,
    not_empty,
)
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, sides, top

_SHARED = Memory(shares=((top(0).data, bottom(0).data), (top(0).diff, bottom(0).diff)))


@dataclass(frozen=True, slots=True)
class ConcatSettings:
    axis: int | None = None
    concat_dim: int | None = None


class Concat(Rule):
    type = "Concat"
    copies = Copies.IN_ORDER
    message = "concat_param"
    settings = ConcatSettings
    bottoms = (1, None)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ConcatSettings = site.settings
        first = site.bottoms[0] if len(site.bottoms) > 1 else not_empty(site.bottoms[0])
        axis = _axis(s.axis, s.concat_dim, first, old_name="concat_dim")
        before, after = first[:axis], first[axis + 1 :]
        for i, shape in enumerate(site.bottoms):
            same_axes = len(shape) == len(first)
            if not same_axes or shape[:axis] != before or shape[axis + 1 :] != after:
                raise ShapeError(
                    f"can't join bottom 0 {first} and bottom {i} {shape} along axis {axis}: all "
                    "their other axes must be equal"
                )
        return ((*before, sum([shape[axis] for shape in site.bottoms]), *after),)

    def coupling(self, site: Site) -> Coupling:
        s: ConcatSettings = site.settings
        axis = _axis(s.axis, s.concat_dim, site.bottoms[0], old_name="concat_dim")
        return Coupling(along=axis, linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        if len(site.bottoms) == 1:
            return _SHARED
        return Memory(
            forward=(*sides(bottom, len(site.bottoms), "data"), top(0).data),
            backward=(top(0).diff, *needed_diffs(site)),
        )


@dataclass(frozen=True, slots=True)
class SliceSettings:
    axis: int | None = None
    slice_point: tuple[int, ...] = ()
    slice_dim: int | None = None


class Slice(Rule):
    type = "Slice"
    copies = Copies.IN_ORDER
    message = "slice_param"
    settings = SliceSettings
    tops = (1, None)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: SliceSettings = site.settings
        bottom = site.bottoms[0] if site.tops > 1 else not_empty(site.bottoms[0])
        axis = _axis(s.axis, s.slice_dim, bottom, old_name="slice_dim")
        before, after = bottom[:axis], bottom[axis + 1 :]
        sizes = _slice_sizes(s.slice_point, bottom[axis], site.tops)
        return tuple([(*before, size, *after) for size in sizes])

    def coupling(self, site: Site) -> Coupling:
        s: SliceSettings = site.settings
        axis = _axis(s.axis, s.slice_dim, site.bottoms[0], old_name="slice_dim")
        return Coupling(along=axis, linear=True, affine=True)

    def sizes_on_first_axis(self, settings: SliceSettings) -> tuple[tuple[str, int], ...]:
        if 0 not in (settings.axis, settings.slice_dim):
            return ()
        return tuple([(f"{self.message}.slice_point", point) for point in settings.slice_point])

    def memory(self, site: Site, mode: Mode) -> Memory:
        if site.tops == 1:
            return _SHARED
        return Memory(
            forward=(bottom(0).data, *sides(top, site.tops, "data")),
            backward=(
                (bottom(0).diff, *sides(top, site.tops, "diff")) if site.bottom_need[0] else ()
            ),
        )


def _axis(axis: int | None, old: int | None, shape: Shape, *, old_name: str) -> int:
    """The axis from the setting, or from its older name, which accepts no negative numbers."""
    if axis is not None and old is not None:
        raise ShapeError(f"axis and {old_name} are two names for one setting; give only one")
    if old is None:
        return axis_index(1 if axis is None else axis, shape)
    if old >= len(shape):
        raise ShapeError(f"{old_name} {old} is outside a blob of {len(shape)} axes {shape}")
    return old


def _slice_sizes(points: tuple[int, ...], size: int, tops: int) -> list[int]:
    """Sizes of the parts: between the points, or all equal."""
    if not points:
        if size % tops:
            raise ShapeError(f"an axis of {size} can't be cut into {tops} equal parts")
        return [size // tops] * tops
    cuts = [0, *points, size]
    sizes = [end - start for start, end in pairwise(cuts)]
    if len(sizes) != tops:
        raise ShapeError(f"{len(points)} slice_point(s) make {len(sizes)} tops, not {tops}")
    # Caffe lets the last part be empty, as long as the axis is at least as long as there are tops.
    if min(sizes[:-1]) <= 0 or sizes[-1] < 0 or tops > size:
        raise ShapeError(f"slice_point {points} must rise from above 0 to below the axis of {size}")
    return sizes
