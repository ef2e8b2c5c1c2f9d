"""The split of an effective batch: exact, largest that fits, refused where it can't be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import InputError
from caffe_batch.planning.split import choose, divisors, exact_candidates, samples_per_gpu


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
    candidates = exact_candidates(
        effective, gpus, usable, lambda sizes: {b: fixed + slope * b for b in sizes}
    )
    assert all(c.batch_size * c.iter_size * gpus == effective for c in candidates)
    assert [c.batch_size for c in candidates] == sorted(divisors(share), reverse=True)
    chosen = choose(candidates)
    if chosen is None:
        assert fixed + slope > usable
    else:
        assert chosen.predicted_peak_bytes == fixed + slope * chosen.batch_size <= usable
        larger = [d for d in divisors(share) if d > chosen.batch_size]
        assert all(fixed + slope * d > usable for d in larger)


def test_a_refused_size_is_no_candidate_to_choose() -> None:
    candidates = exact_candidates(
        6, 1, 100, lambda sizes: {b: "too large for Caffe" if b > 2 else b for b in sizes}
    )
    chosen = choose(candidates)
    assert chosen is not None
    assert chosen.batch_size == 2
    assert candidates[0].refused == "too large for Caffe"
    assert not candidates[0].fits


@pytest.mark.parametrize(
    ("effective", "gpus", "message"),
    [
        (0, 1, "an effective batch of 0 has no samples"),
        (-4, 1, "an effective batch of -4 has no samples"),
        (3, 4, "an effective batch of 3 is smaller than the 4 GPUs"),
        (10, 4, "10 can't be shared by 4 GPUs exactly"),
        (8, 0, "0 GPUs can't train"),
    ],
)
def test_impossible_shares(effective: int, gpus: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        samples_per_gpu(effective, gpus)


def test_the_nearest_shares_are_named() -> None:
    with pytest.raises(InputError, match="nearest that can are 8 and 12"):
        samples_per_gpu(10, 4)
