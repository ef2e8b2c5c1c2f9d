"""The account of all memory: which sides there are, what each points to, and what is there yet.

Caffe allocates a side (data or diff of a blob) when it is first touched and frees it only when no
blob points to it any more (syncedmem.cpp, blob.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from caffe_batch.layers.base import Mode


class Part(IntEnum):
    """What a piece of memory is for."""

    ACTIVATIONS = 0
    GRADIENTS = 1
    PARAMETERS = 2
    SOLVER_STATE = 3
    LAYER_BUFFERS = 4
    DATA_PREFETCH = 5
    TEST_NET = 6

    @property
    def key(self) -> str:
        """Its name in JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Memory of one layer, in bytes.

    A blob counts for the layer that produces it, a shared parameter for the layer that owns it.

    Attributes:
        net: ``"train"``, or ``"test"`` with the number of the test net.
        parts: Bytes by :class:`Part`, without TEST_NET; they sum to ``bytes``.
    """

    net: str
    name: str
    type: str
    bytes: int
    parts: dict[Part, int]


@dataclass(slots=True)
class Step:
    """What one layer does to memory in one pass: pointers set, then sides touched."""

    row: int
    shares: list[tuple[int, int]]
    touches: list[int]
    transient_bytes: int = 0


class Ledger:
    """All sides and the memory behind each: how large, whose, and whether it is there yet."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.rows: list[tuple[str, str, str]] = []  # net, layer name, layer type
        self.peak = 0
        self._live = 0
        self._memory_of: list[int] = []  # by side
        self._bytes: list[int] = []  # by memory, as all below
        self._part: list[Part] = []
        self._row: list[int] = []
        self._holders: list[int] = []
        self._there: list[bool] = []
        self._passing: dict[int, int] = {}  # by row: what was there and is freed again

    def side(self, size_bytes: int, part: Part, row: int) -> int:
        """A new side, with memory of its own that isn't there yet."""
        self._bytes.append(size_bytes)
        self._part.append(part)
        self._row.append(row)
        self._holders.append(1)
        self._there.append(False)
        self._memory_of.append(len(self._bytes) - 1)
        return len(self._memory_of) - 1

    def run(self, steps: Iterable[Step]) -> None:
        """Goes through the steps in order."""
        memory_of, there, sizes = self._memory_of, self._there, self._bytes
        for step in steps:
            for side, other in step.shares:
                self._share(side, other, step.row)
            for side in step.touches:
                memory = memory_of[side]
                if not there[memory]:
                    there[memory] = True
                    self._live += sizes[memory]
            if step.transient_bytes:
                self._passing[step.row] = step.transient_bytes
            self.peak = max(self.peak, self._live + step.transient_bytes)

    def _share(self, side: int, other: int, row: int) -> None:
        old, new = self._memory_of[side], self._memory_of[other]
        if old == new:
            return
        self._memory_of[side] = new
        self._holders[new] += 1
        self._holders[old] -= 1
        if not self._holders[old] and self._there[old]:
            self._there[old] = False
            self._live -= self._bytes[old]
            self._passing[row] = self._passing.get(row, 0) + self._bytes[old]

    def by_layer(self) -> tuple[LayerBytes, ...]:
        """The peak by layer.

        What was there at the peak and is freed again counts as buffers of the layer that has most
        of it: the peak is reached while that layer runs.
        """
        parts: list[dict[Part, int]] = [{} for _ in self.rows]
        for memory, there in enumerate(self._there):
            if there:
                mine, part = parts[self._row[memory]], self._part[memory]
                mine[part] = mine.get(part, 0) + self._bytes[memory]
        freed = self.peak - self._live
        if freed:
            mine = parts[max(self._passing, key=self._passing.__getitem__)]
            mine[Part.LAYER_BUFFERS] = mine.get(Part.LAYER_BUFFERS, 0) + freed
        return tuple(
            LayerBytes(*names, bytes=sum(mine.values()), parts=mine)
            for names, mine in zip(self.rows, parts, strict=True)
        )
