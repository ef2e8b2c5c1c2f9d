"""The predicted peak at many batch sizes, from a few predictions.

A side's bytes are a constant plus a multiple of the batch size, or the larger one of two such sums
(Scale's multiplier). So the peak, as a function of the batch size, is convex; where its value at a
point between two others lies on the straight line through them, it is that line all the way.
One sample alone is apart: some layers take a shorter way then, and leave a buffer out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caffe_batch.errors import ShapeError

Peak = int | str
"""Bytes, or in words why Caffe refuses the net at this batch size."""


def peak_curve(at: Callable[[int], int], sizes: Sequence[int]) -> dict[int, Peak]:
    """The peak at each of these batch sizes.

    Args:
        at: Bytes at a batch size; raises a ShapeError where Caffe refuses it.
        sizes: Batch sizes, in any order.

    Returns:
        Peak by batch size, in the order of ``sizes``.
    """
    known: dict[int, Peak] = {}

    def peak(size: int) -> Peak:
        if size not in known:
            try:
                known[size] = at(size)
            except ShapeError as error:
                known[size] = error.message
        return known[size]

    rising = sorted(set(sizes))
    # What Caffe refuses for its size it refuses at every larger one, and says so early.
    while rising and isinstance(peak(rising[-1]), str):
        rising.pop()
    rising = [size for size in rising if size > 1]
    _fill(peak, known, rising)
    return {size: peak(size) for size in sizes}


def _fill(peak: Callable[[int], Peak], known: dict[int, Peak], sizes: Sequence[int]) -> None:
    """Writes the sizes between the first and the last into ``known`` where they are on a line."""
    if len(sizes) <= 3:
        return
    low, middle, high = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    ends = peak(low), peak(high)
    centre = peak(middle)
    if not (isinstance(ends[0], int) and isinstance(ends[1], int) and isinstance(centre, int)):
        return
    rise, remainder = divmod(ends[1] - ends[0], high - low)
    if remainder or centre != ends[0] + rise * (middle - low):
        return
    for size in sizes:
        known[size] = ends[0] + rise * (size - low)
