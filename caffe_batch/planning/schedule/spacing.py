"""When several solvers of one run test: once after the last update of each, and evenly between.

Source: solver.cpp. Within a solver Caffe tests before an update (Step), and after the last one
(Solve), if the number of updates done is a multiple of test_interval. That number continues through
all solvers of a run. A boundary between two of them is therefore tested once if one of the two
intervals divides it and the other doesn't; the end of the run if the last interval divides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import gcd, log

from caffe_batch.planning.split.candidates import divisors
from caffe_batch.solver.testing import has_test_at

#: A solver tests at its own end, rather than the next one at its start, unless the spacing improves
#: by more than this (see :attr:`Stretch.off`).
_HANDED_ON = log(1.25)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The updates of one solver.

    Attributes:
        first: Updates done when it begins.
        last: Updates done when it ends, more than ``first``.
        wanted: The ideal number of updates between two tests.
    """

    first: int
    last: int
    wanted: Fraction

    @property
    def spacing(self) -> Fraction:
        """What is wanted, or all its updates if there are fewer."""
        return min(self.wanted, Fraction(self.last - self.first))

    def off(self, interval: int) -> float:
        """How far an interval is from the wanted one: the logarithm of their ratio."""
        return abs(log(min(interval, self.last - self.first) / self.spacing))


def spaced_tests(stretches: Sequence[Stretch]) -> tuple[int, ...]:
    """The test_interval of each solver of a run, nearest to the wanted spacings.

    The last update of each is tested exactly once, by its own solver or at the start of the next.
    A solver that tests at its end has an interval that divides the updates done by then: if their
    number has few divisors the spacing is far off, but no less than half of what is wanted.

    Args:
        stretches: The solvers in order, from update 0, each starting where the previous one ends.

    >>> spaced_tests([Stretch(0, 120, Fraction(60)), Stretch(120, 150, Fraction(20))])
    (60, 25)
    """
    # Keyed by whether the last solver so far tests at its end: the best intervals, and how far off.
    best: dict[bool, tuple[float, tuple[int, ...]]] = {True: (0.0, ())}
    for stretch in stretches:
        longer: dict[bool, tuple[float, tuple[int, ...]]] = {}
        for tested, (off, chosen) in best.items():
            for ends in (True, False):
                interval = _nearest(stretch, begins=not tested, ends=ends)
                if interval is None:
                    continue
                total = off + stretch.off(interval) + (0 if ends else _HANDED_ON)
                if ends not in longer or total < longer[ends][0]:
                    longer[ends] = (total, (*chosen, interval))
        best = longer
    return best[True][1]


def _nearest(stretch: Stretch, *, begins: bool, ends: bool) -> int | None:
    """The best interval with, or without, a test at the start and at the end; None without any.

    At update 0 every solver with test_initialization tests. Without a test at the end, the one
    before is half an interval away or more, since the next solver starts with one.
    """
    first, last, wanted = stretch.first, stretch.last, stretch.spacing

    def tests_right(interval: int) -> bool:
        if first and has_test_at(interval, first) is not begins:
            return False
        since = last % interval  # updates since the last test before the end
        return since == 0 if ends else 2 * since >= interval

    divided = gcd(first if begins else 0, last if ends else 0)
    if not divided:  # almost every number will do
        near = (max(1, round(wanted) + side * off) for off in count() for side in (1, -1))
        return next(filter(tests_right, near))
    right = [each for each in divisors(divided) if 2 * each >= wanted and tests_right(each)]
    return min(right, key=lambda each: (stretch.off(each), each), default=None)
