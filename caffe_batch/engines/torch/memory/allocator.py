"""CUDA's caching allocator in PyTorch, simulated: what it reserves for what is allocated.

PyTorch asks the driver for segments, hands out blocks of them, and keeps what is freed. The rules
are those of its documentation ("CUDA semantics, Memory management") and of
c10/cuda/CUDACachingAllocator.cpp, with default settings and one stream:

1. A request is rounded up to 512 bytes.
2. Up to 1 MiB it comes from the small pool, else from the large one.
3. The smallest free block of the pool that is large enough is taken; of equal ones, that at the
   lowest address.
4. Without one, a segment is asked for: of 2 MiB for the small pool; for the large one of 20 MiB for
   less than 10 MiB, else of the size rounded up to 2 MiB.
5. What remains of a block is split off if it is at least 512 bytes (small pool) or more than 1 MiB
   (large pool).
6. A freed block is merged with free neighbours of its segment.

Where a segment can't be had, PyTorch gives the unused ones back and asks again: so a training may
get by with less than is reserved here, but never needs more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from caffe_batch.engines.torch.memory.trace import Freed, Trace

#: kMinBlockSize.
UNIT_BYTES = 512
#: kSmallSize: the largest request of the small pool.
SMALL_BYTES = 2**20
#: kSmallBuffer: the segments of the small pool.
SMALL_SEGMENT_BYTES = 2 * 2**20
#: kLargeBuffer: the segments for requests of less than kMinLargeAlloc.
LARGE_SEGMENT_BYTES = 20 * 2**20
#: kMinLargeAlloc: from here on a request has a segment of its own size.
OWN_SEGMENT_BYTES = 10 * 2**20
#: kRoundLarge: what that size is rounded up to.
ROUND_LARGE_BYTES = 2 * 2**20


class _Block:
    """A piece of a segment.

    Attributes:
        address, bytes: Where it lies. Segments lie one after the other, with a gap.
        small: Whether it belongs to the small pool.
        free: Whether nobody has it.
        before, after: Its neighbours in the segment.
    """

    __slots__ = ("address", "after", "before", "bytes", "free", "small")

    def __init__(self, address: int, size: int, *, small: bool) -> None:
        self.address, self.bytes, self.small = address, size, small
        self.free = False
        self.before: _Block | None = None
        self.after: _Block | None = None


class CachingAllocator:
    """The allocator of one GPU.

    Attributes:
        allocated_bytes, reserved_bytes: What is handed out, and what the driver has given.
        peak_allocated_bytes, peak_reserved_bytes: The most of both so far
            (``max_memory_allocated`` and ``max_memory_reserved``).
    """

    def __init__(self) -> None:
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._address = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (size, address)
        self._at: dict[int, _Block] = {}  # the free blocks by address

    def allocate(self, size: int) -> _Block | None:
        """A block for a request; None for an empty one, which takes nothing."""
        if not size:
            return None
        wanted = -(-size // UNIT_BYTES) * UNIT_BYTES
        small = wanted <= SMALL_BYTES
        block = self._taken(wanted, small=small) or self._segment(wanted, small=small)
        rest = block.bytes - wanted
        if rest >= UNIT_BYTES if small else rest > SMALL_BYTES:
            self._split(block, wanted)
        self.allocated_bytes += block.bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: _Block | None) -> None:
        """Give a block back."""
        if block is None:
            return
        self.allocated_bytes -= block.bytes
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._remove(neighbour)
                self._merge(block, neighbour)
        self._put(block)

    def blocks(self) -> list[tuple[int, int]]:
        """Address and size of the free blocks, in the order of addresses."""
        return sorted((address, size) for pool in self._free.values() for size, address in pool)

    def _taken(self, wanted: int, *, small: bool) -> _Block | None:
        pool = self._free[small]
        index = bisect_left(pool, (wanted, -1))
        if index == len(pool):
            return None
        block = self._at[pool[index][1]]
        self._remove(block)
        return block

    def _segment(self, wanted: int, *, small: bool) -> _Block:
        if small:
            size = SMALL_SEGMENT_BYTES
        elif wanted < OWN_SEGMENT_BYTES:
            size = LARGE_SEGMENT_BYTES
        else:
            size = -(-wanted // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES
        self.reserved_bytes += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        block = _Block(self._address, size, small=small)
        self._address += size + UNIT_BYTES
        return block

    def _split(self, block: _Block, wanted: int) -> None:
        rest = _Block(block.address + wanted, block.bytes - wanted, small=block.small)
        block.bytes = wanted
        rest.before, rest.after = block, block.after
        if rest.after is not None:
            rest.after.before = rest
        block.after = rest
        self._put(rest)

    def _merge(self, block: _Block, neighbour: _Block) -> None:
        block.bytes += neighbour.bytes
        if neighbour is block.before:
            block.address, block.before = neighbour.address, neighbour.before
            if block.before is not None:
                block.before.after = block
        else:
            block.after = neighbour.after
            if block.after is not None:
                block.after.before = block

    def _put(self, block: _Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.bytes, block.address))
        self._at[block.address] = block

    def _remove(self, block: _Block) -> None:
        block.free = False
        pool = self._free[block.small]
        del pool[bisect_left(pool, (block.bytes, block.address))]
        del self._at[block.address]


@dataclass(frozen=True)
class Simulated:
    """What the allocator makes of a training.

    Attributes:
        allocated_bytes: The most that is handed out at once.
        reserved_bytes: The most that it has from the driver.
    """

    allocated_bytes: int
    reserved_bytes: int


def simulated(trace: Trace) -> Simulated:
    """What the allocator makes of a trace."""
    allocator = CachingAllocator()
    blocks: dict[Freed, _Block | None] = {}
    for _, _, tensor, which in trace.steps():
        if tensor is None:
            allocator.free(blocks.pop(which))
        else:
            blocks[which] = allocator.allocate(tensor.bytes)
    return Simulated(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)
