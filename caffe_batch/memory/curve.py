"""The predicted peak at many batch sizes, from four predictions.

Where nothing is ever freed again, the peak is the sum of all that is ever touched. Each piece of it
is a constant plus a multiple of the batch size, or (Scale's multiplier) the larger one of two such
sums. So each term that is known at two batch sizes is known between them; a third one checks it.
One sample alone is apart: some layers take a shorter way then, and leave a buffer out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from caffe_batch.errors import ShapeError
from caffe_batch.memory.base import Peak
from caffe_batch.memory.ledger import Terms


def peak_curve(at: Callable[[int], Terms | int], sizes: Sequence[int]) -> dict[int, Peak]:
    """The peak at each of these batch sizes.

    Args:
        at: The peak at a batch size: its terms, or just the bytes where it is no plain sum; raises
            a ShapeError where Caffe refuses the size.
        sizes: Batch sizes, in any order.

    Returns:
        Peak by batch size, in the order of ``sizes``.
    """
    asked: dict[int, Terms | int | str] = {}

    def ask(size: int) -> Terms | int | str:
        if size not in asked:
            try:
                asked[size] = at(size)
            except ShapeError as error:
                asked[size] = error.message
        return asked[size]

    rising = sorted(set(sizes))
    # What Caffe refuses for its size it refuses at every larger one, and says so early.
    while rising and isinstance(ask(rising[-1]), str):
        rising.pop()
    rising = [size for size in rising if size > 1]
    between = {}
    if len(rising) > 3:
        points = (rising[0], rising[len(rising) // 2], rising[-1])
        between = _between({size: ask(size) for size in points}, rising)
    return {size: between.get(size) or _bytes(ask(size)) for size in sizes}


def _bytes(peak: Terms | int | str) -> Peak:
    return peak.total if isinstance(peak, Terms) else peak


def _between(points: Mapping[int, Terms | int | str], sizes: Sequence[int]) -> dict[int, int]:
    """The peak at sizes between three known ones; empty where they don't lie on lines."""
    (low, first), (middle, second), (high, third) = points.items()
    if not (isinstance(first, Terms) and isinstance(second, Terms) and isinstance(third, Terms)):
        return {}

    def line(size: int) -> Terms:
        def between(start: int, end: int) -> int:
            return start + (end - start) * (size - low) // (high - low)

        pairs = zip(first.either, third.either, strict=True)
        return Terms(
            between(first.straight, third.straight),
            tuple([(between(a, c), between(b, d)) for (a, b), (c, d) in pairs]),
        )

    if len(first.either) != len(third.either) or line(middle) != second:
        return {}
    return {size: line(size).total for size in sizes}
