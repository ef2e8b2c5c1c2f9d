"""The predicted peak at many batch sizes, from four predictions.

Where nothing is ever freed, the peak is the sum of everything that is ever touched. Each term is a
constant plus a multiple of the batch size, or (Scale's multiplier) the larger of two such sums. So
a term that is known at two batch sizes is known at all sizes between them; a third size checks it.
Batch size 1 is a case of its own: some layers then take a shortcut and leave a buffer out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from caffe_batch.errors import ShapeError
from caffe_batch.memory.base import Peak
from caffe_batch.memory.ledger import Terms


def peak_curve(at: Callable[[int], Terms | int], sizes: Sequence[int]) -> dict[int, Peak]:
    """The peak at each of these batch sizes.

    Args:
        at: Gives the peak at a batch size: its terms, or just the bytes where it isn't a plain sum;
            raises a ShapeError where Caffe refuses the size.
        sizes: Batch sizes, in any order.

    Returns:
        The peak by batch size, in the order of ``sizes``.
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
    # A size that Caffe refuses as too large is refused early, as are all larger ones.
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
    """The peak at sizes between three known ones; empty where their terms aren't linear."""
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
