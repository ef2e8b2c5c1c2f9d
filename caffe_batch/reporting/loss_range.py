"""The range of losses that a picture shows: high first values don't press the rest to the floor.

report.js does the same for the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The first values that may lie outside: this share of all, and at least one.
_EARLY = 0.05

#: They do if they would take more than this many times the room of all others.
_ROOM = 3.0

#: One of them lies inside if it widens the range by no more than this share.
_STEP = 0.25

#: Fewer values than this are shown as they are.
_FEW = 8


@dataclass(frozen=True)
class LossRange:
    """What of a series of losses is shown.

    Attributes:
        low, high: The least and the largest loss inside.
        above: How many of the first losses lie above.
        first: The largest of these; nan if there are none.
    """

    low: float
    high: float
    above: int = 0
    first: float = math.nan

    @property
    def note(self) -> str:
        """A sentence about what lies outside; empty if nothing does."""
        if not self.above:
            return ""
        values = "first value lies" if self.above == 1 else f"first {self.above} values lie"
        return f"the {values} above, up to {self.first:.4g}"


def loss_range(losses: Sequence[float]) -> LossRange:
    """The range of losses to show. Those that aren't finite don't count.

    Args:
        losses: In the order of the updates.


    >>> loss_range([90, 12, *[2.5] * 30, *[2.0] * 30])
    LossRange(low=2.0, high=2.5, above=2, first=90)
    >>> loss_range([2.5, 2.0]).note
    ''
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return LossRange(0.0, 1.0)
    whole = LossRange(min(finite), max(finite))
    if len(finite) < _FEW:
        return whole
    start = max(1, int(len(finite) * _EARLY))
    low, high = min(finite[start:]), max(finite[start:])
    while start and finite[start - 1] <= high + _STEP * (high - low):
        start -= 1
        high = max(high, finite[start])
    if high == low or whole.high - high <= _ROOM * (high - low):
        return whole
    early = [loss for loss in finite[:start] if loss > high]
    return LossRange(whole.low, high, len(early), max(early))
