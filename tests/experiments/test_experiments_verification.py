"""What counts as a difference: pure arithmetic on norms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from caffe_batch.experiments.verification import (
    FLOOR,
    MARGIN,
    TOLERANCE,
    Errors,
    Losses,
    ParameterErrors,
    Verification,
    judge,
    relative_errors,
    vanishing,
)
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict


def test_an_error_is_relative_to_its_own_array() -> None:
    # RMS of the whole: sqrt((36 + 64) / 25) = 2
    errors = relative_errors([(9,), (4, 4)], [6.0, 8.0], [0.3, 0.2])
    assert errors == pytest.approx([0.05, 0.025])


def test_a_small_array_counts_as_a_share_of_the_net() -> None:
    # The RMS is sqrt(300 / 75) = 2, and 25 elements of it have a norm of 10.
    small, large = relative_errors([(25,), (50,)], [1e-9, math.sqrt(300)], [1e-6, 0.0])
    assert small == pytest.approx(1e-6 / (10 * FLOOR))
    assert large == 0


def test_equal_arrays_of_zeros_have_no_error() -> None:
    assert relative_errors([(3,)], [0.0], [0.0]) == [0.0]
    assert relative_errors([(3,)], [0.0], [1.0]) == [math.inf]
    assert relative_errors([], [], []) == []


def test_nan_never_agrees() -> None:
    assert all(map(math.isnan, relative_errors([(3,), (2,)], [math.nan, 1.0], [math.nan] * 2)))


def test_what_vanishes_is_below_the_tolerance() -> None:
    norms = [10 * TOLERANCE * 0.9, 10 * TOLERANCE * 1.1, 20.0]
    # The RMS is 20 / sqrt(300): 100 elements of it have a norm of 20 / sqrt(3).
    assert vanishing([(100,), (100,), (100,)], norms) == [True, True, False]
    assert vanishing([(100,), (100,), (100,)], [1e-3, 2e-3, 20.0]) == [False, False, False]


SAME = Errors(1e-7, None)
FOUND = Verification(
    batch_size=4,
    iter_size=3,
    updates=3,
    solver_type="SGD",
    parameters=(
        ParameterErrors("ip", 0, (2, 3), SAME, SAME),
        ParameterErrors("ip", 1, (2,), None, SAME),
    ),
    statistics=(),
    first_losses=Losses(2.0, 2.0 + 1e-7),
    losses=Losses(1.0, 1.0 + 1e-7, None, (1.0 + 1e-6, 1.0 - 1e-6)),
    data=(),
    findings=(
        Finding(Cause.WEIGHT_DECAY, None, Verdict.EXACT, ""),
        Finding(Cause.LOG_OUTPUTS, None, Verdict.DIFFERENT, "", scope=Scope.LOG),
    ),
)


def with_weights(error: float, control: float = 0.0, **fields: object) -> Verification:
    weights = Errors(error, None, control)
    row = replace(FOUND.parameters[0], weights=weights, **fields)  # type: ignore[arg-type]
    return replace(FOUND, parameters=(row, FOUND.parameters[1]))


def test_a_promise_is_kept_or_broken() -> None:
    assert (judge(FOUND).promised, judge(FOUND).held) == (True, True)
    broken = judge(with_weights(2e-5))
    assert (broken.promised, broken.held) == (True, False)
    assert "weights after 3 updates 2.0e-05" in broken.sentence
    loss = replace(FOUND, losses=Losses(1.0, 1.1, None))
    assert not judge(loss).held
    averages = replace(FOUND, statistics=(ParameterErrors("bn", 0, (2,), None, Errors(1, None)),))
    assert not judge(averages).held
    assert not judge(with_weights(math.nan)).held


def test_what_rounding_can_grow_to_is_tolerated_after_the_updates() -> None:
    assert judge(with_weights(3e-4, control=2e-4)).held
    assert with_weights(3e-4, control=2e-4).tolerance == pytest.approx(MARGIN * 2e-4)
    assert not judge(with_weights(5e-4, control=2e-4)).held
    assert not judge(with_weights(3e-4)).held
    grown = with_weights(1e-7, control=2e-4)
    assert judge(replace(grown, losses=Losses(1.0, 1.0003))).held
    assert not judge(replace(grown, losses=Losses(1.0, 1.001))).held
    disturbed = replace(FOUND, losses=Losses(1.0, 1.0003, None, (1.0001, 0.9998)))
    assert disturbed.tolerance == pytest.approx(MARGIN * 2e-4)
    assert judge(disturbed).held


def test_where_nothing_is_amplified_the_tolerance_stays() -> None:
    assert with_weights(0, control=2 * TOLERANCE).tolerance == TOLERANCE
    assert not judge(with_weights(1.1e-5, control=1.9e-5)).held


def test_the_first_update_is_held_to_the_tolerance_whatever_the_control_says() -> None:
    grown = with_weights(1e-7, control=1.0)
    assert judge(grown).held
    row = replace(grown.parameters[0], gradient=Errors(2e-5))
    assert not judge(replace(grown, parameters=(row,))).held
    assert not judge(replace(grown, first_losses=Losses(1.0, 1.00002))).held


def test_a_long_sum_may_round_by_as_much_as_it_has_terms() -> None:
    """2^-24 of it for each term; 1e-5 stays the least, and what isn't rounding stays a fault."""
    off = replace(FOUND, first_losses=Losses(2.0, 2.0 * (1 + 1e-4)))
    assert not judge(off).held
    for terms, held in ((1600, False), (1700, True)):  # 1e-4 / 2^-24 = 1678
        assert judge(replace(off, first_losses=replace(off.first_losses, terms=terms))).held == held
    smoothed = replace(FOUND, losses=Losses(1.0, 1.0001, terms=1700))
    assert judge(smoothed).held
    assert not judge(replace(smoothed, losses=replace(smoothed.losses, compensated=3.0))).held
    assert smoothed.json()["tolerance"]["loss"] == pytest.approx(1700 * 2**-24)
    assert not judge(replace(smoothed, losses=replace(smoothed.losses, compensated=math.nan))).held


def test_terms_that_cancel_out_round_as_their_sum_without_signs() -> None:
    losses = Losses(0.1, 0.1, size=50.0, terms=16)
    assert losses.rounding == pytest.approx(16 * 2**-24 * 50 / (FLOOR * 50))
    assert Losses(0.0, 0.0, terms=16).rounding == 0


def test_a_gradient_of_many_places_rounds_by_the_root_of_their_number() -> None:
    row = replace(FOUND.parameters[0], gradient=Errors(2e-5), weights=Errors(2e-5))
    # Of 3,500 terms: sqrt(2 ln(7,000,000) 3,500) = 332.16, times 2^-24.
    assert replace(row, terms=3500).tolerance == pytest.approx(332.16 * 2**-24, rel=1e-4)
    for terms, held in ((3500, False), (3600, True)):
        assert judge(replace(FOUND, parameters=(replace(row, terms=terms),))).held == held
    assert replace(row, terms=100).tolerance == TOLERANCE


def test_a_training_that_diverges_is_judged_by_its_first_update() -> None:
    gone = with_weights(math.nan, control=math.nan)
    assert gone.diverges
    assert judge(gone).held
    assert "no weights to compare" in judge(gone).sentence
    assert gone.json()["tolerance"]["gradient"] == TOLERANCE
    assert gone.json()["tolerance"]["weights"] is None
    assert not judge(replace(gone, first_losses=Losses(1.0, 1.1))).held


def test_weights_without_a_gradient_are_not_judged() -> None:
    assert judge(with_weights(0.5, vanishing=True)).held


def test_without_a_promise_the_difference_is_attributed() -> None:
    finding = Finding(Cause.IGNORE_LABEL, "loss", Verdict.APPROXIMATE, "")
    open_case = replace(with_weights(0.1), findings=(finding,))
    verdict = judge(open_case)
    assert (verdict.promised, verdict.held) == (False, True)
    assert "as the audit says: ignore_label (approximate)" in verdict.sentence
    assert "No difference here" in judge(replace(FOUND, findings=(finding,))).sentence
