"""The account of all memory: which sides exist, what each points to, and what is allocated.

Caffe allocates a side (data or diff of a blob) when it is first touched and frees it only when no
blob points to it any more (syncedmem.cpp, blob.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from caffe_batch.layers.base import Mode

#: cudaMalloc rounds each request up to a multiple of this many bytes. That is observed behaviour;
#: NVIDIA promises only that addresses are multiples of 256. That the allocator carves requests out
#: of larger blocks is not modelled.
CUDA_MALLOC_BYTES = 512


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

    A blob is counted for the layer that produces it, a shared parameter for the layer that owns it.

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
    """What one layer does to memory in one pass: it sets pointers, then touches sides."""

    row: int
    shares: list[tuple[int, int]]
    touches: list[int]
    transient_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """A peak as a sum, in bytes.

    Attributes:
        straight: The part that is a constant plus a multiple of the batch size.
        either: Pairs of such sums, of which the larger one counts.
    """

    straight: int
    either: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """The peak."""
        return self.straight + sum(map(max, self.either))


class Ledger:
    """All sides and the memory behind each: how large, whose, and how long it is allocated.

    Attributes:
        peak: The most that was ever allocated at once, in bytes.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.rows: list[tuple[str, str, str]] = []  # net, layer name, layer type
        self.peak = 0
        self._live = 0
        self._now = 0  # number of the step, from 1
        self._peak_at = 0
        self._peak_step: Step | None = None
        self._memory_of: list[int] = []  # by side
        self._bytes: list[int] = []  # by memory, as all below
        self._part: list[Part] = []
        self._row: list[int] = []
        self._since: list[int] = []  # the step that first touched it; 0 if none did
        self._holders: dict[int, int] = {}  # how many sides point to it, where not exactly one
        self._freed: dict[int, int] = {}  # the step that removed its last holder
        self._either: dict[int, tuple[int, int]] = {}  # two sizes, where the larger one counts
        self._passing = False  # whether any memory is only used within one pass
        self._requests: dict[int, int] = {}  # the number of equal requests, where more than one
        self._adjoining: list[set[int]] = []  # memories that together are one request

    def side(
        self,
        size_bytes: int,
        part: Part,
        row: int,
        *,
        requests: int = 1,
        either: tuple[int, int] | None = None,
    ) -> int:
        """Add a side, with memory of its own that isn't allocated yet; returns its number."""
        if either is not None:
            self._either[len(self._bytes)] = either
        if requests != 1:
            self._requests[len(self._bytes)] = requests
        self._bytes.append(size_bytes)
        self._part.append(part)
        self._row.append(row)
        self._memory_of.append(len(self._bytes) - 1)
        return len(self._memory_of) - 1

    def join(self, sides: Iterable[int]) -> None:
        """Let these sides be allocated in one request, which matters for rounding alone."""
        self._adjoining.append({self._memory_of[side] for side in sides})

    def run(self, steps: Iterable[Step]) -> None:
        """Go through the steps in order."""
        self._since += [0] * (len(self._bytes) - len(self._since))
        memory_of, since, sizes = self._memory_of, self._since, self._bytes
        for step in steps:
            self._now += 1
            for side, other in step.shares:
                self._share(side, other)
            for side in step.touches:
                memory = memory_of[side]
                if not since[memory]:
                    since[memory] = self._now
                    self._live += sizes[memory]
            self._passing = self._passing or step.transient_bytes > 0
            if self._live + step.transient_bytes > self.peak:
                self.peak = self._live + step.transient_bytes
                self._peak_at, self._peak_step = self._now, step

    def _share(self, side: int, other: int) -> None:
        old, new = self._memory_of[side], self._memory_of[other]
        if old == new:
            return
        self._memory_of[side] = new
        self._holders[new] = self._holders.get(new, 1) + 1
        self._holders[old] = self._holders.get(old, 1) - 1
        if not self._holders[old] and self._since[old]:
            self._freed[old] = self._now
            self._live -= self._bytes[old]

    def at_peak(self) -> list[int]:
        """The memories that are allocated at the peak."""
        peak_at = self._peak_at
        freed = {memory for memory, step in self._freed.items() if step <= peak_at}
        return [
            memory
            for memory, since in enumerate(self._since)
            if 0 < since <= peak_at and memory not in freed
        ]

    def terms(self, there: Sequence[int]) -> Terms | None:
        """The peak as a sum; None where memory is freed, so that the moment matters."""
        if self._freed or self._passing:
            return None
        either = tuple([self._either[memory] for memory in there if memory in self._either])
        return Terms(self.peak - sum(map(max, either)), either)

    def by_layer(self, there: Sequence[int]) -> tuple[LayerBytes, ...]:
        """What is allocated at the peak, by layer; ``there`` is the result of :meth:`at_peak`."""
        parts: list[dict[Part, int]] = [{} for _ in self.rows]
        rows, kinds, sizes = self._row, self._part, self._bytes
        for memory in there:
            mine, part = parts[rows[memory]], kinds[memory]
            mine[part] = mine.get(part, 0) + sizes[memory]
        if self._peak_step is not None and self._peak_step.transient_bytes:
            mine = parts[self._peak_step.row]
            passing = self._peak_step.transient_bytes
            mine[Part.LAYER_BUFFERS] = mine.get(Part.LAYER_BUFFERS, 0) + passing
        return tuple(
            LayerBytes(*names, bytes=sum(mine.values()), parts=mine)
            for names, mine in zip(self.rows, parts, strict=True)
        )

    def rounding_bytes(self, there: Sequence[int]) -> int:
        """What cudaMalloc adds at the peak, by rounding each request up; 0 in CPU mode.

        Memory that is only used within one pass counts as one request.
        """
        if self.mode == "cpu":
            return 0
        sizes, unit = self._bytes, CUDA_MALLOC_BYTES
        apart = self._requests.keys() | set().union(*self._adjoining)
        added = sum([-sizes[memory] % unit for memory in there if memory not in apart])
        for memory in self._requests.keys() & there:
            requests = self._requests[memory]
            added += requests * (-sizes[memory] // requests % unit)
        for group in self._adjoining:
            added += -sum([sizes[memory] for memory in group]) % unit
        return added + (-self._peak_step.transient_bytes % unit if self._peak_step else 0)
