"""Flatten and Reshape: the same elements under another shape.

Source: flatten_layer.cpp, reshape_layer.cpp.

No element is copied: the top's data is the bottom's. Reshape shares the diff too, in every Reshape
call; Flatten passes the top's diff down when its Backward runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
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
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, top
from caffe_batch.layers.split import refuse_in_place


@dataclass(frozen=True, slots=True)
class FlattenSettings:
    axis: int = 1
    end_axis: int = -1


class Flatten(Rule):
    type = "Flatten"
    copies = Copies.IN_ORDER
    message = "flatten_param"
    settings = FlattenSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        refuse_in_place(site, self.type)
        s: FlattenSettings = site.settings
        bottom = site.bottoms[0]
        start, end = axis_index(s.axis, bottom), axis_index(s.end_axis, bottom, what="end_axis") + 1
        if start > end:
            raise ShapeError(
                f"can't flatten {bottom} from axis {start} to axis {end - 1}",
                hint="end_axis is the last axis to flatten; it must not lie before axis.",
            )
        return ((*bottom[:start], count(bottom[start:end]), *bottom[end:]),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(relabels=True, linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            shares=((top(0).data, bottom(0).data),),
            backward_shares=((bottom(0).diff, top(0).diff),),
        )


@dataclass(frozen=True, slots=True)
class ReshapeSettings:
    shape: Shape = ()
    axis: int = 0
    num_axes: int = -1


class Reshape(Rule):
    """Replaces ``num_axes`` axes from ``axis`` on by ``shape``.

    A 0 in ``shape`` copies the bottom's axis at the same place; one -1 takes what is left. A batch
    size written out as a number works only for that batch_size.
    """

    type = "Reshape"
    copies = Copies.IN_ORDER
    message = "reshape_param"
    settings = ReshapeSettings
    copied_axis = 0

    def shape(self, site: Site) -> tuple[Shape, ...]:
        refuse_in_place(site, self.type)
        s: ReshapeSettings = site.settings
        bottom = not_empty(site.bottoms[0])
        start, end = _replaced_axes(s, bottom)
        new = [
            _copied_axis(bottom, start + i) if size == 0 else size for i, size in enumerate(s.shape)
        ]
        top = [*bottom[:start], *new, *bottom[end:]]
        if new.count(-1) > 1:
            raise ShapeError(f"reshape_param: shape {s.shape} has more than one -1")
        if -1 in new:
            top[start + new.index(-1)] = _inferred_axis(bottom, top)
        if min(top, default=0) < 0:
            raise ShapeError(f"reshape_param: shape {s.shape} has a negative size")
        if count(top) != count(bottom):
            raise ShapeError(
                f"can't reshape {bottom}, {count(bottom)} elements, into {tuple(top)}, "
                f"{count(top)} elements",
                hint="Instead of a written-out batch_size, write 0 (copy the axis) or -1.",
            )
        return (tuple(top),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(relabels=True, linear=True, affine=True)

    def literal_shapes(self, settings: ReshapeSettings) -> tuple[Shape, ...]:
        return (settings.shape,) if settings.axis == 0 else ()

    def with_literal_shapes(
        self, settings: ReshapeSettings, shapes: tuple[Shape, ...]
    ) -> ReshapeSettings:
        return replace(settings, shape=shapes[0])

    def literal_path(
        self, settings: ReshapeSettings, shape: int, axis: int
    ) -> tuple[str | int, ...]:
        return (self.message, "shape", "dim", axis)

    def sizes_on_first_axis(self, settings: ReshapeSettings) -> tuple[tuple[str, int], ...]:
        first = settings.shape[:1] if settings.axis == 0 else ()
        return tuple([(f"{self.message}.shape.dim", size) for size in first if size > 0])

    def any_batch(self, settings: ReshapeSettings) -> bool:
        """Whether axis 0 stays as it is: copied, or before the axes that are replaced."""
        return settings.axis > 0 or not settings.shape or settings.shape[0] == 0

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(shares=((top(0).data, bottom(0).data), (top(0).diff, bottom(0).diff)))


def _replaced_axes(s: ReshapeSettings, bottom: Shape) -> tuple[int, int]:
    """First replaced axis, and the one after the last. Negative ones count from past the end."""
    axes = len(bottom)
    start = s.axis if s.axis >= 0 else axes + s.axis + 1
    end = axes if s.num_axes == -1 else start + s.num_axes
    if not 0 <= start <= axes or s.num_axes < -1 or end > axes:
        raise ShapeError(
            f"reshape_param: axis {s.axis} with num_axes {s.num_axes} is outside a blob of "
            f"{axes} axes {bottom}"
        )
    return start, end


def _copied_axis(bottom: Shape, axis: int) -> int:
    if axis >= len(bottom):
        raise ShapeError(
            f"reshape_param: a 0 copies axis {axis}, which the bottom {bottom} doesn't have"
        )
    return bottom[axis]


def _inferred_axis(bottom: Shape, top: list[int]) -> int:
    """What the one -1 in ``top`` stands for."""
    given = -count(top)
    if given == 0 or count(bottom) % given:
        raise ShapeError(
            f"the -1 of reshape_param can't be resolved: {count(bottom)} elements {bottom} aren't "
            f"a multiple of the other sizes {tuple(size for size in top if size != -1)}"
        )
    return count(bottom) // given
