"""What counts as a difference: pure arithmetic on norms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from caffe_batch.experiments.comparison import (
    FLOOR,
    TOLERANCE,
    Errors,
    Losses,
    ParameterErrors,
    Verification,
    judge,
    relative_errors,
    vanishing,
)
from caffe_batch.planning.findings import Cause, Finding, Scope, Verdict


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


def test_numbers_that_are_none_are_no_agreement() -> None:
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
    losses=Losses(1.0, 1.0 + 1e-7, None),
    data=(),
    findings=(
        Finding(Cause.WEIGHT_DECAY, None, Verdict.EXACT, ""),
        Finding(Cause.LOG_OUTPUTS, None, Verdict.DIFFERENT, "", scope=Scope.LOG),
    ),
)


def with_weights(error: float, **fields: object) -> Verification:
    row = replace(FOUND.parameters[0], weights=Errors(error, None), **fields)  # type: ignore[arg-type]
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


def test_weights_of_adaptive_rules_have_a_tolerance_of_their_own() -> None:
    adam = replace(with_weights(2e-5), solver_type="Adam")
    assert judge(adam).held
    assert not judge(replace(with_weights(0.02), solver_type="Adam")).held
    assert not judge(replace(adam, losses=Losses(1.0, 1.001, None))).held


def test_weights_without_a_gradient_are_not_judged() -> None:
    assert judge(with_weights(0.5, vanishing=True)).held


def test_without_a_promise_the_difference_is_attributed() -> None:
    finding = Finding(Cause.IGNORE_LABEL, "loss", Verdict.APPROXIMATE, "")
    open_case = replace(with_weights(0.1), findings=(finding,))
    verdict = judge(open_case)
    assert (verdict.promised, verdict.held) == (False, True)
    assert "as the audit says: ignore_label (approximate)" in verdict.sentence
    assert "No difference here" in judge(replace(FOUND, findings=(finding,))).sentence
