"""Which values of which data layers reach a layer that reads them as labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
        found = [_origins(node, net, number, origins) for number in range(len(node.tops))]
        origins.update(zip(node.tops, found, strict=True))


def _origins(
    node: Node, net: Net, number: int, origins: dict[int, tuple[Origin, ...]]
) -> tuple[Origin, ...]:
    """Where the values of a top come from; empty if that isn't known."""
    if not node.bottoms:
        return (Origin(node.layer.name, number),)
    if node.rule.copies is not Copies.IN_ORDER:
        return ()
    found = [origins.get(bottom, ()) for bottom in node.bottoms]
    if not all(found):
        return ()
    if len(found) > 1:
        return tuple(replace(each, reshaped=True) for of_one in found for each in of_one)
    bottom, tops = node.site.bottoms[0], [net.blobs[top].shape for top in node.tops]
    if tops[number] == bottom:
        return found[0]
    part = _part(bottom, tops, number)
    if part is None:
        return tuple(replace(each, reshaped=True) for each in found[0])
    axis, first, end = part
    if axis == 0:  # other samples, but the same kind of values
        return found[0]
    if any(each.reshaped for each in found[0]):
        return ()
    return tuple(replace(each, region=_within(each.region, axis, first, end)) for each in found[0])


def _part(bottom: Shape, tops: Sequence[Shape], number: int) -> tuple[int, int, int] | None:
    """(axis, first, last + 1) of the part that a top is, where the tops are slices of a bottom."""
    if len(tops) < 2 or any(len(top) != len(bottom) for top in tops):
        return None
    axes = {i for top in tops for i, (a, b) in enumerate(zip(top, bottom, strict=True)) if a != b}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    first = sum(top[axis] for top in tops[:number])
    return axis, first, first + tops[number][axis]


def _within(
    region: tuple[tuple[int, int, int], ...], axis: int, first: int, end: int
) -> tuple[tuple[int, int, int], ...]:
    """A part of a region; if the axis is cut already, a cut of that cut."""
    start = next((low for other, low, _ in region if other == axis), 0)
    others = tuple(each for each in region if each[0] != axis)
    return (*others, (axis, start + first, start + end))
