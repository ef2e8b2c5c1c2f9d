"""Samples for nets whose own data can't be had: which blobs get some, and what numbers they take.

Most blobs take any number. Some are read as class numbers, as indices or as marks, and numbers
that are none would make Caffe abort or read beyond its memory; who reads a blob decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from caffe_batch.layers.base import Shape, axis_index, count
from caffe_batch.net.graph import Net, Node


class Kind(str, Enum):
    """How the numbers of a blob are drawn; the worker knows the same words."""

    #: Any number: uniform in [0, 1).
    UNIFORM = "uniform"
    #: A whole number from 0 to below a limit.
    INDEX = "index"
    #: Ones and zeros, a one at every even place: marks of which some are set in any batch.
    SELECTOR = "selector"
    #: 0 in the first time step, 1 in the others: each sequence begins with its batch.
    BEGIN = "begin"


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a blob may hold.

    Attributes:
        kind: How they are drawn.
        below: Limit of ``INDEX``.
        ignored: A number that stands in a quarter of the places as well (``ignore_label``).
    """

    kind: Kind = Kind.UNIFORM
    below: int = 0
    ignored: int | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """One blob that the worker fills before each pass.

    Attributes:
        top: Its name.
        shape: Its shape with the samples of a whole update.
        axis: The axis that the samples are cut along into micro-batches; None if each pass gets
            the same numbers.
        numbers: What it may hold.
    """

    top: str
    shape: Shape
    axis: int | None
    numbers: Numbers

    def json(self) -> dict[str, Any]:
        """As the worker reads it."""
        numbers = {**asdict(self.numbers), "kind": self.numbers.kind.value}
        return {"top": self.top, "shape": self.shape, "axis": self.axis, **numbers}


def numbers_for(net: Net, top: str) -> Numbers:
    """What a blob may hold, by the layers that read it, directly or rearranged.

    Args:
        net: The net at the smallest batch it is fed for, which limits the indices into a batch.
        top: Name of the blob.
    """
    wanted = list(_wanted(net, top))
    if not wanted:
        return Numbers()
    alike = [numbers for numbers in wanted if numbers.kind is wanted[0].kind]
    ignored = {numbers.ignored for numbers in alike}
    return Numbers(
        wanted[0].kind,
        min(numbers.below for numbers in alike),
        # A reader that ignores nothing takes it for a class.
        ignored.pop() if len(ignored) == 1 else None,
    )


def _wanted(net: Net, top: str) -> Iterator[Numbers]:
    """What each reader wants that doesn't take any number."""
    names = [blob.name for blob in net.blobs]
    carried = {names.index(top)}
    for node in net.nodes:
        for bottom, blob in enumerate(node.bottoms):
            if blob not in carried:
                continue
            want = _READERS.get((node.layer.type, bottom))
            if node.layer.type == "Filter" and bottom == len(node.bottoms) - 1:
                want = _selector
            if want:
                yield want(node)
            elif node.layer.type in _REARRANGE:
                carried.update(node.tops)


#: Types whose tops hold the numbers of their bottoms.
_REARRANGE = ("BatchReindex", "Concat", "Crop", "Filter", "Flatten", "Reshape", "Slice", "Split",
              "Tile")  # fmt: skip


def _classes(node: Node) -> Numbers:
    scores = node.site.bottoms[0]
    settings = node.layer.settings
    return Numbers(Kind.INDEX, scores[axis_index(settings.axis, scores)], settings.ignore_label)


def _classes_of_rows(node: Node) -> Numbers:
    scores = node.site.bottoms[0]
    return Numbers(Kind.INDEX, count(scores[1:]))


def _targets(node: Node) -> Numbers:
    return Numbers(Kind.INDEX, 2, node.layer.settings.ignore_label)


def _similar(node: Node) -> Numbers:
    return Numbers(Kind.INDEX, 2)


def _words(node: Node) -> Numbers:
    return Numbers(Kind.INDEX, node.layer.settings.input_dim)


def _rows(node: Node) -> Numbers:
    return Numbers(Kind.INDEX, node.site.bottoms[0][0])


def _selector(node: Node) -> Numbers:
    return Numbers(Kind.SELECTOR)


def _begin(node: Node) -> Numbers:
    return Numbers(Kind.BEGIN)


#: (type, bottom) -> what may stand there. Sources: the layers' own .cpp files.
_READERS: dict[tuple[str, int], Callable[[Node], Numbers]] = {
    ("Accuracy", 1): _classes,
    ("BatchReindex", 1): _rows,
    ("ContrastiveLoss", 2): _similar,
    ("Embed", 0): _words,
    ("HingeLoss", 1): _classes_of_rows,
    ("InfogainLoss", 1): _classes,
    ("LSTM", 1): _begin,
    ("MultinomialLogisticLoss", 1): _classes_of_rows,
    ("RNN", 1): _begin,
    ("SigmoidCrossEntropyLoss", 1): _targets,
    ("SoftmaxWithLoss", 1): _classes,
}
