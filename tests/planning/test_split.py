"""The split of an effective batch: exact, the largest that fits, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import InputError
from caffe_batch.planning.split.candidates import (
    Candidate,
    Sharing,
    SplitOptions,
    divisors,
    good_neighbours,
    largest_that_fits,
    make_candidates,
    ranked,
    samples_per_gpu,
)

ALONE = Sharing()
EXACT = SplitOptions()


def peaks(sizes: Sequence[int]) -> dict[int, int | str]:
    """A byte a sample."""
    return {size: size for size in sizes}


def best_of(
    candidates: Sequence[Candidate], wanted: int = 0, prefer_multiple_of: int = 1
) -> Candidate | None:
    return next(iter(ranked(candidates, wanted, prefer_multiple_of)), None)


def chosen(effective: int, options: SplitOptions, usable: int, gpus: int = 1) -> Candidate:
    candidates = make_candidates(effective, Sharing(gpus), options, usable, peaks)
    best = best_of(candidates, effective, options.prefer_multiple_of)
    assert best is not None
    return best


@given(st.integers(1, 5000))
def test_divisors_are_all_and_sorted(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@given(
    share=st.integers(1, 2000),
    gpus=st.integers(1, 8),
    fixed=st.integers(0, 10**6),
    slope=st.integers(1, 10**6),
    usable=st.integers(0, 10**9),
)
def test_chosen_split_is_exact_and_the_largest_that_fits(
    share: int, gpus: int, fixed: int, slope: int, usable: int
) -> None:
    effective = share * gpus
    candidates = make_candidates(
        effective, Sharing(gpus), EXACT, usable, lambda sizes: {b: fixed + slope * b for b in sizes}
    )
    assert all(c.batch_size * c.iter_size * gpus == effective for c in candidates)
    assert [c.batch_size for c in candidates] == sorted(divisors(share), reverse=True)
    chosen = best_of(candidates)
    if chosen is None:
        assert fixed + slope > usable
    else:
        assert chosen.predicted_peak_bytes == fixed + slope * chosen.batch_size <= usable
        larger = [d for d in divisors(share) if d > chosen.batch_size]
        assert all(fixed + slope * d > usable for d in larger)


def test_a_refused_size_is_not_a_candidate_to_choose() -> None:
    candidates = make_candidates(
        6,
        ALONE,
        EXACT,
        100,
        lambda sizes: {b: "too large" if b > 2 else b for b in sizes},
    )
    chosen = best_of(candidates)
    assert chosen is not None
    assert chosen.batch_size == 2
    assert candidates[0].refused == "too large"
    assert not candidates[0].fits


@pytest.mark.parametrize(
    ("effective", "gpus", "message"),
    [
        (0, 1, "an effective batch of 0 has no samples"),
        (-4, 1, "an effective batch of -4 has no samples"),
        (3, 4, "an effective batch of 3 is smaller than the 4 GPUs"),
        (10, 4, "10 can't be shared exactly by 4 GPUs"),
        (8, 0, "0 GPUs can't train"),
    ],
)
def test_impossible_shares(effective: int, gpus: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        samples_per_gpu(effective, gpus)


def test_the_nearest_shares_are_named() -> None:
    with pytest.raises(InputError, match="nearest that can are 8 and 12"):
        samples_per_gpu(10, 4)


@given(
    effective=st.integers(1, 3000),
    gpus=st.integers(1, 4),
    percent=st.integers(1, 30),
    usable=st.integers(1, 200),
)
def test_a_tolerance_never_takes_more_passes_and_stays_within(
    effective: int, gpus: int, percent: int, usable: int
) -> None:
    options = SplitOptions(Fraction(percent, 100))
    try:
        best = chosen(effective, options, usable, gpus)
    except InputError:
        assert effective < gpus or effective % gpus
        return
    assert best.effective_batch == best.batch_size * best.iter_size * gpus
    assert abs(best.effective_batch - effective) * 100 <= percent * effective
    # Nothing within the tolerance that fits takes fewer passes, or is nearer with as many; of one
    # batch_size only the number of passes counts that comes nearest.
    distance = abs(best.effective_batch - effective)
    for size in range(1, usable + 1):
        passes = max(1, round(Fraction(effective, size * gpus)))
        off = abs(size * passes * gpus - effective)
        if off * 100 <= percent * effective:
            assert (passes, off) >= (best.iter_size, distance)


def test_an_exact_split_is_taken_before_a_neighbour_of_as_many_passes() -> None:
    best = chosen(256, SplitOptions(Fraction(1, 20)), usable=65)
    assert (best.batch_size, best.iter_size) == (64, 4)
    best = chosen(256, SplitOptions(Fraction(1, 20)), usable=62)
    assert (best.batch_size, best.iter_size) == (62, 4)
    best = chosen(257, SplitOptions(Fraction(1, 20)), usable=65)
    assert (best.batch_size, best.iter_size, best.effective_batch) == (64, 4, 256)


@pytest.mark.parametrize(
    ("options", "split"),
    [
        (SplitOptions(batch_size=8), (8, 12)),
        (SplitOptions(iter_size=6), (16, 6)),
        (SplitOptions(batch_size=8, iter_size=12), (8, 12)),
        (SplitOptions(Fraction(1, 20), batch_size=7), (7, 14)),
        (SplitOptions(prefer_multiple_of=12), (24, 4)),
        (SplitOptions(prefer_multiple_of=5), (32, 3)),  # no divisor is: the largest then
    ],
)
def test_pins_and_preferences(options: SplitOptions, split: tuple[int, int]) -> None:
    best = chosen(96, options, usable=40)
    assert (best.batch_size, best.iter_size) == split


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            SplitOptions(batch_size=7),
            "96 can't be made with batch_size 7",
            "effective_batch=91 or 98",
        ),
        (
            SplitOptions(iter_size=7),
            "96 can't be made with iter_size 7",
            "effective_batch=91 or 98",
        ),
        (
            SplitOptions(batch_size=5, iter_size=7),
            "96 can't be made with batch_size 5 and iter_size 7",
            "effective_batch=70 or 105",
        ),
    ],
)
def test_pins_that_dont_divide(options: SplitOptions, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        chosen(96, options, usable=40)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_poor_split_has_better_neighbours() -> None:
    best = chosen(257, EXACT, usable=70)
    assert (best.batch_size, best.iter_size) == (1, 257)
    near = good_neighbours(257, ALONE, best, 70, peaks)
    assert [(each.effective_batch, each.batch_size, each.iter_size) for each in near] == [
        (256, 64, 4),
        (258, 43, 6),
    ]


@given(effective=st.integers(2, 700), usable=st.integers(2, 90), gpus=st.integers(1, 3))
def test_better_neighbours_are_the_nearest_there_are(
    effective: int, usable: int, gpus: int
) -> None:
    sharing, wanted = Sharing(gpus), effective * gpus
    candidates = make_candidates(wanted, sharing, EXACT, usable, peaks)
    best = best_of(candidates, wanted)
    assert best is not None
    for each in good_neighbours(wanted, sharing, best, usable, peaks):
        off = each.effective_batch - wanted
        assert off != 0
        assert 10 * abs(off) <= wanted
        assert 2 * each.iter_size <= best.iter_size
        # No other on its side that fits is nearer with as few passes.
        others = (
            size * count * gpus - wanted
            for size in range(1, usable + 1)
            for count in range(1, each.iter_size + 1)
        )
        assert min(abs(other) for other in others if other * off > 0) == abs(off)


def test_both_roundings_of_a_size_are_looked_at() -> None:
    """1021 = 7 x 145.86: 146 is nearer, but it is above."""
    best = chosen(1021, EXACT, usable=150)
    near = good_neighbours(1021, ALONE, best, 150, peaks)
    assert [(each.effective_batch, each.batch_size, each.iter_size) for each in near] == [
        (1020, 102, 10), (1022, 146, 7)
    ]  # fmt: skip


def test_a_good_split_has_none() -> None:
    assert good_neighbours(256, ALONE, chosen(256, EXACT, usable=70), 70, peaks) == []
    # A prime that fits whole.
    assert good_neighbours(257, ALONE, chosen(257, EXACT, usable=300), 300, peaks) == []


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_largest_that_fits_is_found_in_few_questions(upper: int, usable: int) -> None:
    asked: list[int] = []

    def count(sizes: Sequence[int]) -> dict[int, int | str]:
        asked.append(len(sizes))
        return peaks(sizes)

    assert largest_that_fits(upper, usable, count) == min(upper, usable)
    assert len(asked) <= 4
