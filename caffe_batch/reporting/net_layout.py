"""A net as boxes and arrows, and where they stand: what a picture of it shows.

A box is a layer with the layers that work in place on its blob; the Splits that Caffe inserts are
left out. Boxes stand in rows: each below all that it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

from caffe_batch.net.graph import Net, Node
from caffe_batch.sizes import format_size


class Role(Enum):
    """What a box is in training."""

    DATA = "data"
    LEARNED = "learned"
    FROZEN = "frozen"
    LOSS = "loss"
    PLAIN = "without parameters"


@dataclass(frozen=True)
class Box:
    """A layer and those that work in place on its blob.

    Attributes:
        title: Name and type of the layer.
        lines: What stands below: the layers in place, the shapes of the tops, parameters and bytes.
        role: What it is in training.
    """

    title: str
    lines: tuple[str, ...]
    role: Role


@dataclass(frozen=True)
class Drawing:
    """A net to be drawn.

    Attributes:
        boxes: Its boxes, in the order of the net.
        arrows: From which box to which one values go.
        places: Column and row of each box; columns are centred on 0 and may be halves.
    """

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]
    places: tuple[tuple[float, int], ...]


def drawing(net: Net, layer_bytes: Mapping[str, int]) -> Drawing:
    """The drawing of a net.

    Args:
        net: The net, in one phase.
        layer_bytes: Memory by layer name, in bytes.
    """
    groups: list[list[Node]] = []
    producer: dict[int, int] = {}
    arrows: dict[tuple[int, int], None] = {}
    for node in net.nodes:
        sources = [producer[bottom] for bottom in node.bottoms if bottom in producer]
        if node.rule.fans_out:
            producer.update(dict.fromkeys(node.tops, sources[0]))
        elif node.tops and node.tops == node.bottoms:
            groups[sources[0]].append(node)
        else:
            arrows.update(dict.fromkeys((source, len(groups)) for source in sources))
            producer.update(dict.fromkeys(node.tops, len(groups)))
            groups.append([node])
    boxes = tuple(_box(net, group, layer_bytes) for group in groups)
    return Drawing(boxes, tuple(arrows), tuple(_places(len(boxes), list(arrows))))


def _box(net: Net, group: Sequence[Node], layer_bytes: Mapping[str, int]) -> Box:
    first = group[0]
    shapes = [
        f"{net.blobs[top].name}: {' x '.join(map(str, net.blobs[top].shape)) or 'scalar'}"
        for top in first.tops
    ]
    owned = {node.layer.name for node in group}
    learned = sum(prod(each.shape) for each in net.learned if each.layer in owned)
    size = sum(layer_bytes.get(node.layer.name, 0) for node in group)
    numbers = [f"{learned:,} parameters"] if learned else []
    lines = [f"+ {node.layer.name} ({node.layer.type})" for node in group[1:]]
    lines += [*shapes, ", ".join([*numbers, format_size(size)])]
    return Box(f"{first.layer.name} ({first.layer.type})", tuple(lines), _role(net, group))


def _role(net: Net, group: Sequence[Node]) -> Role:
    rates = [
        net.params[index].lr_mult
        for node in group
        if not node.rule.fixed_parameters
        for index in node.params
    ]
    if any(any(node.loss) for node in group):
        return Role.LOSS
    if not group[0].bottoms and not rates:
        return Role.DATA
    if not rates:
        return Role.PLAIN
    return Role.FROZEN if all(rate == 0 for rate in rates) else Role.LEARNED


def _places(number: int, arrows: Sequence[tuple[int, int]]) -> list[tuple[float, int]]:
    """Column and row of each box: rows by the longest way, columns near what is read."""
    read: dict[int, list[int]] = defaultdict(list)
    for source, target in arrows:
        read[target].append(source)
    rows: list[int] = []
    for box in range(number):
        rows.append(1 + max((rows[source] for source in read[box]), default=-1))
    columns: dict[int, float] = {}
    for row in range(max(rows, default=-1) + 1):
        here = [box for box in range(number) if rows[box] == row]
        wish = {
            box: sum(columns[source] for source in read[box]) / len(read[box]) if read[box] else 0.0
            for box in here
        }
        middle = sum(wish.values()) / len(here)
        for place, box in enumerate(sorted(here, key=lambda each: (wish[each], each))):
            columns[box] = round(2 * middle) / 2 + place - (len(here) - 1) / 2
    return [(columns[box], rows[box]) for box in range(number)]
