"""Made-up samples for nets whose own data isn't available: which blobs, and which numbers.

Most blobs may hold any number. Some are read as class numbers, as indices or as marks, and any
other number would make Caffe abort or read beyond its memory: the layers that read a blob decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from caffe_batch.layers.base import Shape
from caffe_batch.layers.facts import ANY_NUMBERS, Copies, Numbers
from caffe_batch.net.graph import Net


@dataclass(frozen=True, slots=True)
class Feed:
    """One blob that the worker fills in each pass.

    Attributes:
        layer: Name of the layer whose top it is; the blob is filled after that layer's Forward.
        top: Its name.
        shape: Its shape with the samples of a whole update.
        axis: The axis along which the samples are cut into micro-batches; None if each pass gets
            the same numbers.
        numbers: The numbers that it may hold.
    """

    layer: str
    top: str
    shape: Shape
    axis: int | None
    numbers: Numbers

    def json(self) -> dict[str, Any]:
        """The form in which the worker reads it."""
        numbers = {**asdict(self.numbers), "kind": self.numbers.kind.value}
        places = {"layer": self.layer, "top": self.top, "shape": self.shape, "axis": self.axis}
        return {**places, **numbers}


def numbers_for(net: Net, top: str) -> Numbers:
    """The numbers that a blob may hold, decided by the layers that read it, even rearranged.

    Args:
        net: The net at the smallest batch for which it is fed; it limits indices into a batch.
        top: Name of the blob.
    """
    wanted = list(_wanted(net, top))
    if not wanted:
        return ANY_NUMBERS
    alike = [numbers for numbers in wanted if numbers.kind is wanted[0].kind]
    ignored = {numbers.ignored for numbers in alike}
    return Numbers(
        wanted[0].kind,
        min(numbers.below for numbers in alike),
        # A reader that ignores no label takes it for a class.
        ignored.pop() if len(ignored) == 1 else None,
    )


def _wanted(net: Net, top: str) -> Iterator[Numbers]:
    """The numbers of each reader that doesn't accept arbitrary ones."""
    names = [blob.name for blob in net.blobs]
    carried = {names.index(top)}
    for node in net.nodes:
        for bottom, blob in enumerate(node.bottoms):
            if blob not in carried:
                continue
            wanted = node.rule.numbers(node.site, bottom)
            if wanted != ANY_NUMBERS:
                yield wanted
            elif node.rule.copies is not Copies.NOTHING:
                carried.update(node.tops)
