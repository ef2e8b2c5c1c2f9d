"""Where several solvers of one run test: each boundary once, at the end, and evenly in between."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, product

from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.planning.schedule.spacing import Stretch, spaced_tests

lengths = st.lists(
    st.tuples(st.integers(1, 3000), st.fractions(Fraction(1, 2), 500, max_denominator=7)),
    min_size=1,
    max_size=8,
)


def stretches(parts: Sequence[tuple[int, Fraction]]) -> list[Stretch]:
    ends = list(accumulate(length for length, _ in parts))
    return [
        Stretch(first, last, wanted)
        for first, last, (_, wanted) in zip([0, *ends], ends, parts, strict=False)
    ]


def when_tested(run: Sequence[Stretch], intervals: Sequence[int]) -> list[int]:
    """After how many updates Caffe tests: Step before each update, Solve after the last."""
    return [
        update
        for stretch, interval in zip(run, intervals, strict=True)
        for update in range(stretch.first, stretch.last + 1)
        if update % interval == 0
    ]


@given(lengths)
def test_every_bound_is_tested_once(parts: list[tuple[int, Fraction]]) -> None:
    run = stretches(parts)
    tested = when_tested(run, spaced_tests(run))
    for stretch in run:
        assert tested.count(stretch.last) == 1
    assert tested == sorted(set(tested))


@given(lengths)
def test_none_tests_more_than_twice_as_often(parts: list[tuple[int, Fraction]]) -> None:
    run = stretches(parts)
    for stretch, interval in zip(run, spaced_tests(run), strict=True):
        assert min(interval, stretch.last - stretch.first) >= stretch.spacing / 2 - 1


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.fractions(1, 9, max_denominator=2)), min_size=2, max_size=2
    )
)
def test_no_other_intervals_are_nearer(parts: list[tuple[int, Fraction]]) -> None:
    """Against all pairs that test at their own ends, and not at their begins."""
    run = stretches(parts)
    off = sum(each.off(own) for each, own in zip(run, spaced_tests(run), strict=True))
    for pair in product(*(range(1, each.last + 1) for each in run)):
        ends = all(each.last % own == 0 for each, own in zip(run, pair, strict=True))
        often = any(2 * own < each.spacing for each, own in zip(run, pair, strict=True))
        if ends and run[1].first % pair[1] and not often:
            other = sum(each.off(own) for each, own in zip(run, pair, strict=True))
            assert off <= other + 1e-9


def test_what_fits_stays() -> None:
    run = stretches([(60, Fraction(20)), (30, Fraction(9)), (50, Fraction(7))])
    assert spaced_tests(run) == (20, 9, 7)  # 60 % 9 and 90 % 7 aren't 0
