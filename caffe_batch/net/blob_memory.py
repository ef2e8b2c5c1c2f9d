"""Which blobs of a net share memory, and which layers write to it.

An in-place layer has one blob as bottom and top; Split, Reshape, Flatten, a Concat of one bottom, a
Slice with one top and others give a blob the memory of another one (their rules say which side).
Backward replaces the contents of a gradient; where several layers write and read one gradient in
a pass, they take turns, from the last layer to the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Memory
from caffe_batch.layers.sides import Side, bottom, top
from caffe_batch.net.graph import Net, Node


class BlobMemory:
    """The memory of the blobs of a net, on the CPU.

    Attributes:
        data: For each blob, a number shared by all blobs in the same memory.
        diff: The same for gradients.
    """

    def __init__(self, net: Net) -> None:
        self._nodes = net.nodes
        self._touched = [_touched(node) for node in net.nodes]
        shares = list(self._shares())
        self.data = _groups(len(net.blobs), shares, diffs=False)
        self.diff = _groups(len(net.blobs), shares, diffs=True)

    def readers_and_writers(self, group: int) -> Iterator[tuple[Node, bool, bool]]:
        """Layers whose Backward reads or writes a gradient, in the order in which they run.

        Args:
            group: A number of ``diff``.

        Yields:
            The layer, whether it reads the gradient (as that of a top), and whether it writes to it
            (as that of a bottom).
        """
        for node, memory in zip(reversed(self._nodes), reversed(self._touched), strict=True):
            if not node.site.backward:
                continue
            reads = any(self.diff[blob] == group for blob in node.tops)
            writes = any(
                self.diff[blob] == group and bottom(i).diff in memory.backward
                for i, blob in enumerate(node.bottoms)
            )
            if reads or writes:
                yield node, reads, writes

    def writes_gradient(self, node: Node, number: int) -> bool:
        """Whether the Backward of a layer writes into the gradient of one of its bottoms."""
        return bottom(number).diff in _touched(node).backward

    def writers_of_data(self, group: int) -> Iterator[Node]:
        """Layers whose Forward writes values to a memory, from the first to the last.

        Args:
            group: A number of ``data``.
        """
        for node, memory in zip(self._nodes, self._touched, strict=True):
            if any(
                self.data[blob] == group and top(i).data in memory.forward
                for i, blob in enumerate(node.tops)
            ):
                yield node

    def _shares(self) -> Iterator[tuple[bool, int, int]]:
        """For each pointer that a layer sets: whether it points to a diff, and the two blobs."""
        for node, memory in zip(self._nodes, self._touched, strict=True):
            back = memory.backward_shares if node.site.backward else ()
            for one, other in (*memory.shares, *back):
                blob, same = _blob(node, one), _blob(node, other)
                if blob is not None and same is not None:
                    yield one.is_diff, blob, same


def _touched(node: Node) -> Memory:
    try:
        return node.rule.memory(node.site, "cpu")
    except ShapeError:  # Caffe will refuse to train it
        return Memory()


def _blob(node: Node, side: Side) -> int | None:
    """The blob of the net that one of a layer's sides belongs to, if any."""
    if side.owner == "bottom":
        return node.bottoms[side.number]
    return node.tops[side.number] if side.owner == "top" else None


def _groups(blobs: int, shares: Iterable[tuple[bool, int, int]], *, diffs: bool) -> list[int]:
    """For each blob, the first one that it shares memory with."""
    group = list(range(blobs))

    def root(blob: int) -> int:
        while group[blob] != blob:
            blob = group[blob]
        return blob

    for of_diffs, one, other in shares:
        if of_diffs == diffs:
            low, high = sorted((root(one), root(other)))
            group[high] = low
    return [root(blob) for blob in range(blobs)]
