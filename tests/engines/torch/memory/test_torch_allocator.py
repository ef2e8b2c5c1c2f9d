"""The simulation of CUDA's caching allocator: traces computed by hand, and what always holds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.engines.torch.memory.allocator import (
    LARGE_SEGMENT_BYTES,
    UNIT_BYTES,
    CachingAllocator,
    simulated,
)
from caffe_batch.engines.torch.memory.trace import Freed, PlaceOf, Stage, Stretch, Tensor, Trace
from caffe_batch.memory.ledger import Part

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (0, 0, 0),
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the largest of the small pool
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),  # from here on a segment of its own
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),  # the rest, more than 1 MiB, is split off
        (11 * MIB + 1, 12 * MIB, 12 * MIB),  # the rest isn't
        (19 * MIB, 20 * MIB, 20 * MIB),
    ],
)
def test_one_request(size: int, allocated: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate(size)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (allocated, reserved)


def test_a_large_segment_is_shared_and_split() -> None:
    allocator = CachingAllocator()
    allocator.allocate(9 * MIB)
    allocator.allocate(9 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES
    assert allocator.blocks() == [(18 * MIB, 2 * MIB)]
    allocator.allocate(3 * MIB)  # more than remains there
    assert allocator.reserved_bytes == 2 * LARGE_SEGMENT_BYTES


def test_what_remains_of_a_large_block_stays_with_it() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(32 * MIB))
    allocator.allocate(31 * MIB)  # 1 MiB remains, which isn't more than 1 MiB
    assert allocator.allocated_bytes == 32 * MIB
    assert allocator.blocks() == []


def test_what_remains_of_a_small_block_is_split_off() -> None:
    allocator = CachingAllocator()
    allocator.allocate(2 * MIB - 1024 - MIB)
    assert allocator.blocks() == [(MIB - 1024, MIB + 1024)]


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(30 * MIB)
    allocator.free(large)
    allocator.free(small)
    taken = allocator.allocate(25 * MIB)
    assert taken is small
    assert allocator.reserved_bytes == 70 * MIB
    (of_large, rest) = allocator.blocks()
    assert (of_large[1], rest[1]) == (40 * MIB, 5 * MIB)


def test_freed_neighbours_are_merged() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(6 * MIB) for _ in range(3)]  # 18 of 20 MiB
    assert allocator.reserved_bytes == 20 * MIB
    allocator.free(blocks[0])
    allocator.free(blocks[2])  # with the 2 MiB after it
    assert allocator.blocks() == [(0, 6 * MIB), (12 * MIB, 8 * MIB)]
    allocator.free(blocks[1])
    assert allocator.blocks() == [(0, 20 * MIB)]
    assert allocator.allocated_bytes == 0


def test_pools_are_kept_apart() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(15 * MIB))
    allocator.allocate(MIB)  # it would fit there
    assert allocator.reserved_bytes == 18 * MIB  # 16 for the first, and 2


def test_a_segment_that_was_given_back_is_taken_again() -> None:
    allocator = CachingAllocator()
    for _ in range(5):
        allocator.free(allocator.allocate(50 * MIB))
    assert (allocator.peak_allocated_bytes, allocator.reserved_bytes) == (50 * MIB, 50 * MIB)


def test_a_trace_goes_through_it() -> None:
    tensors = tuple(Tensor(size * MIB, Part.ACTIVATIONS, 0) for size in (12, 14, 12))
    events = (None, None, Freed(0, 0), None)
    trace = Trace((PlaceOf(0, "", ""),), (Stretch(Stage.FORWARD, 0, tensors, events),))
    found = simulated(trace)
    assert (found.allocated_bytes, found.reserved_bytes) == (26 * MIB, 26 * MIB)
    assert trace.peak_bytes() == 26 * MIB


#: Requests around all limits, and what is freed: the index of a block among those that are there.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(1, 3000)),
        st.tuples(st.just("allocate"), st.integers(MIB - 1500, MIB + 1500)),
        st.tuples(st.just("allocate"), st.integers(1, 45 * MIB)),
        st.tuples(st.just("free"), st.integers(0, 1000)),
    ),
    max_size=80,
)


@given(STEPS)
def test_what_always_holds(steps: list[tuple[str, int]]) -> None:
    allocator = CachingAllocator()
    there = []
    requested = most = 0
    for what, number in steps:
        if what == "allocate":
            block = allocator.allocate(number)
            assert block is not None
            there.append((block, number))
            requested += number
        elif there:
            block, size = there.pop(number % len(there))
            requested -= size
            allocator.free(block)
        most = max(most, requested)
        # Everything is either handed out or free, and nothing overlaps.
        free = allocator.blocks()
        taken = [(block.address, block.bytes) for block, _ in there]
        assert sum(size for _, size in taken) == allocator.allocated_bytes
        assert sum(size for _, size in free) == allocator.reserved_bytes - allocator.allocated_bytes
        ends = sorted([*free, *taken])
        assert all(a + size <= b for (a, size), (b, _) in pairwise(ends))
        # A block is as large as what was asked for, rounded up, and at most 1 MiB larger.
        for block, size in there:
            assert 0 <= block.bytes - size < MIB + UNIT_BYTES
            assert block.bytes % UNIT_BYTES == block.address % UNIT_BYTES == 0
    assert most <= allocator.peak_allocated_bytes <= allocator.peak_reserved_bytes
    for block, _ in there:
        allocator.free(block)
    assert allocator.allocated_bytes == 0
    # All segments are whole again: nothing of a segment lies beside another free piece of it.
    sizes = [size for _, size in allocator.blocks()]
    assert all(size % (2 * MIB) == 0 for size in sizes)
