"""Which values of which data layers reach a layer that reads them as labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from caffe_batch.layers.base import Labels, Shape
from caffe_batch.layers.facts import Copies
from caffe_batch.net.graph import Net, Node


@dataclass(frozen=True, slots=True)
class Origin:
    """Values of a data layer's top.

    Attributes:
        layer: The data layer.
        top: Which of its tops.
        region: (axis, first, last + 1) for each axis of the top of which they are only a part;
            axis 0 is the batch.
        reshaped: Whether they have another shape than the top.
    """

    layer: str
    top: int
    region: tuple[tuple[int, int, int], ...] = ()
    reshaped: bool = False


#: An axis, and the first and the last index + 1 of the part on it.
Part = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """A layer that reads values as labels, and where they come from."""

    node: Node
    labels: Labels
    origin: Origin


def label_readings(net: Net) -> Iterator[Reading]:
    """Every layer of a net that reads labels, once for each origin that could be followed."""
    origins: dict[int, tuple[Origin, ...]] = {}
    for node in net.nodes:
        labels = node.rule.labels(node.site)
        if labels is not None:
            for origin in origins.get(node.bottoms[labels.bottom], ()):
                yield Reading(node, labels, origin)
        origins.update(zip(node.tops, _origins(node, net, origins), strict=True))


def _origins(
    node: Node, net: Net, origins: dict[int, tuple[Origin, ...]]
) -> list[tuple[Origin, ...]]:
    """Where the values of each top come from; empty where that isn't known."""
    count = len(node.tops)
    if not node.bottoms:
        return [(Origin(node.layer.name, number),) for number in range(count)]
    if node.rule.copies is not Copies.IN_ORDER:
        return [()] * count
    found = [origins.get(bottom, ()) for bottom in node.bottoms]
    if not all(found):
        return [()] * count
    if len(found) > 1:
        return [tuple(replace(o, reshaped=True) for of_one in found for o in of_one)] * count
    bottom, tops = node.site.bottoms[0], [net.blobs[top].shape for top in node.tops]
    return [
        found[0] if top == bottom else _of_part(found[0], part)
        for top, part in zip(tops, _parts(bottom, tops), strict=True)
    ]


def _of_part(whole: tuple[Origin, ...], part: Part | None) -> tuple[Origin, ...]:
    """Where the values of a part come from; ``part`` is None for other axes."""
    if part is None:
        return tuple(replace(each, reshaped=True) for each in whole)
    axis, first, end = part
    if axis == 0:  # other samples, but the same kind of values
        return whole
    if any(each.reshaped for each in whole):
        return ()
    return tuple(replace(each, region=_within(each.region, axis, first, end)) for each in whole)


def _parts(bottom: Shape, tops: Sequence[Shape]) -> Sequence[Part | None]:
    """The part that each top is, where the tops are slices of a bottom; else None for each."""
    if len(tops) < 2 or any(len(top) != len(bottom) for top in tops):
        return [None] * len(tops)
    axes = {i for top in tops for i, (a, b) in enumerate(zip(top, bottom, strict=True)) if a != b}
    if len(axes) != 1:
        return [None] * len(tops)
    axis = axes.pop()
    ends = list(accumulate(top[axis] for top in tops))
    return [(axis, end - top[axis], end) for top, end in zip(tops, ends, strict=True)]


def _within(
    region: tuple[tuple[int, int, int], ...], axis: int, first: int, end: int
) -> tuple[tuple[int, int, int], ...]:
    """A part of a region; if the axis is cut already, a cut of that cut."""
    start = next((low for other, low, _ in region if other == axis), 0)
    others = tuple(each for each in region if each[0] != axis)
    return (*others, (axis, start + first, start + end))
