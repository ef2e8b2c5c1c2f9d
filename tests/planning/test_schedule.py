"""Schedules for another effective batch: epochs stay, each number is rounded once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import assume, given
from hypothesis import strategies as st

from caffe_batch.errors import InputError
from caffe_batch.net import NetFile, Recipe
from caffe_batch.planning.changes import Change, applied
from caffe_batch.planning.schedule import (
    LrScaling,
    Rescaling,
    ScheduleWishes,
    rate_advice,
    schedule_changes,
)
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.learning_rate import learning_rate

Solver = caffe_pb2.SolverParameter
RECORDS = 50_000


def solver(text: str) -> Solver:
    return text_format.Parse(text, Solver())


def rescaled(given_: Solver, scale: Rescaling, **wishes: Any) -> tuple[Solver, list[Change]]:
    """The solver as the plan has it, and what changed."""
    changes = schedule_changes(given_, scale, ScheduleWishes(**wishes))
    net = NetFile(caffe_pb2.NetParameter(), None, caffe_pb2.NetState())
    return applied(Recipe(given_, None, net, ()), changes).solver, changes


def test_the_same_batch_changes_nothing() -> None:
    recipe = solver("max_iter: 90 stepsize: 30 lr_policy: 'step' gamma: 0.1 test_interval: 7")
    assert rescaled(recipe, Rescaling(64, 64, RECORDS))[1] == []


def test_every_interval_keeps_its_samples() -> None:
    recipe = solver(
        "max_iter: 900 lr_policy: 'multistep' gamma: 0.1 stepvalue: 300 stepvalue: 600 "
        "test_interval: 90 snapshot: 300 display: 30 test_iter: 5"
    )
    plan, changes = rescaled(recipe, Rescaling(256, 64, RECORDS))
    assert (plan.max_iter, list(plan.stepvalue)) == (3600, [1200, 2400])
    assert (plan.test_interval, plan.snapshot, plan.display) == (360, 1200, 120)
    assert plan.test_iter[0] == 5
    assert {change.field for change in changes} == {
        "max_iter", "stepvalue[0]", "stepvalue[1]", "test_interval", "snapshot", "display"
    }  # fmt: skip
    assert all("epoch" in change.reason or "run" in change.reason for change in changes)


@given(
    own=st.integers(1, 600),
    batch=st.integers(1, 600),
    thousands=st.lists(st.integers(1, 1000), min_size=1, max_size=5, unique=True),
)
def test_each_number_is_rounded_once_from_the_files_own(
    own: int, batch: int, thousands: list[int]
) -> None:
    assume(own != batch)
    drops = sorted(1000 * each for each in thousands)
    recipe = Solver(max_iter=drops[-1] + 1, lr_policy="multistep", gamma=0.5, stepvalue=drops)
    plan, _ = rescaled(recipe, Rescaling(own, batch, None))
    before, after = [*drops, recipe.max_iter], [*plan.stepvalue, plan.max_iter]
    for old, new in zip(before, after, strict=True):
        exact = max(Fraction(1), Fraction(old * own, batch))
        assert abs(new - exact) <= Fraction(1, 2)


def test_drops_that_would_fall_together_stay_apart() -> None:
    recipe = solver("max_iter: 9 lr_policy: 'multistep' gamma: 0.5 stepvalue: 1 stepvalue: 2")
    plan, _ = rescaled(recipe, Rescaling(1, 4, None))
    assert list(plan.stepvalue) == [1, 2]


def test_steps_that_dont_come_out_whole_dont_drift() -> None:
    recipe = solver("max_iter: 1000 lr_policy: 'step' stepsize: 100 gamma: 0.5 base_lr: 1")
    plan, changes = rescaled(recipe, Rescaling(100, 300, RECORDS))
    assert plan.lr_policy == "multistep"
    assert not plan.HasField("stepsize")
    assert list(plan.stepvalue) == [33, 67, 100, 133, 167, 200, 233, 267, 300]
    assert all("rounded by itself" in c.reason for c in changes if c.path[0] == "stepvalue")
    for update in range(plan.max_iter):
        before = learning_rate(recipe, 3 * update)
        near = {learning_rate(recipe, 3 * update + off) for off in (-2, -1, 0, 1, 2)}
        assert learning_rate(plan, update) in near, (update, before)


def test_drops_replace_the_stepvalues_that_a_step_policy_never_read() -> None:
    recipe = solver(
        "max_iter: 100 lr_policy: 'step' stepsize: 40 gamma: 0.5 "
        "stepvalue: 7 stepvalue: 8 stepvalue: 9 stepvalue: 10"
    )
    assert list(rescaled(recipe, Rescaling(1, 3, RECORDS))[0].stepvalue) == [13, 27]


def test_steps_that_come_out_whole_stay_steps() -> None:
    recipe = solver("max_iter: 1000 lr_policy: 'step' stepsize: 100 gamma: 0.5")
    plan, _ = rescaled(recipe, Rescaling(100, 50, RECORDS))
    assert (plan.lr_policy, plan.stepsize, plan.max_iter) == ("step", 200, 2000)


def test_many_small_steps_stay_steps_and_say_how_far_they_drift() -> None:
    recipe = solver("max_iter: 1000 lr_policy: 'step' stepsize: 4 gamma: 0.99")
    plan, changes = rescaled(recipe, Rescaling(100, 75, RECORDS))
    assert (plan.lr_policy, plan.stepsize) == ("step", 5)
    (change,) = [each for each in changes if each.field == "stepsize"]
    assert "the last of 249 is 83.0 updates off by rounding" in change.reason


@pytest.mark.parametrize(
    "policy",
    [
        "lr_policy: 'exp' gamma: 0.995",
        "lr_policy: 'inv' gamma: 0.01 power: 0.75",
        "lr_policy: 'sigmoid' gamma: -0.02 stepsize: 300",
        "lr_policy: 'poly' power: 2",
        "lr_policy: 'fixed'",
    ],
)
@pytest.mark.parametrize(("own", "batch"), [(64, 192), (192, 64)])
def test_smooth_rates_keep_their_curve_over_the_samples(policy: str, own: int, batch: int) -> None:
    recipe = solver(f"base_lr: 0.1 max_iter: 900 {policy}")
    plan, _ = rescaled(recipe, Rescaling(own, batch, RECORDS))
    assert plan.max_iter == 900 * own // batch
    for share in (0, 0.25, 0.5, 0.75):
        before = learning_rate(recipe, int(share * recipe.max_iter))
        after = learning_rate(plan, int(share * plan.max_iter))
        assert after == pytest.approx(before, rel=2e-4)


def test_epochs_set_the_length_and_drops_keep_their_place_in_the_run() -> None:
    recipe = solver(
        "max_iter: 600 lr_policy: 'multistep' gamma: 0.1 stepvalue: 300 stepvalue: 450 "
        "test_interval: 60 snapshot: 100 test_iter: 1"
    )
    plan, changes = rescaled(
        recipe, Rescaling(100, 100, 1000), epochs=Fraction(30), test_every=Fraction(1, 2)
    )
    assert (plan.max_iter, list(plan.stepvalue)) == (300, [150, 225])
    assert (plan.test_interval, plan.snapshot) == (5, 100)  # snapshots as often as before
    reasons = {change.field: change.reason for change in changes}
    assert reasons["max_iter"] == "30 epochs"
    assert reasons["test_interval"] == "every 0.5 epochs"


def test_rounding_is_shown() -> None:
    plan, changes = rescaled(
        solver("max_iter: 100"), Rescaling(64, 64, 1000), epochs=Fraction("3.3")
    )
    assert plan.max_iter == 52  # 3.3 * 1000 / 64 = 51.5625
    assert changes[0].reason == "3.3 epochs (51.56 updates, rounded once)"


@pytest.mark.parametrize(
    ("scaling", "rate"), [(LrScaling.NONE, 0.1), (LrScaling.LINEAR, 0.4), (LrScaling.SQRT, 0.2)]
)
def test_the_rate_follows_only_when_asked(scaling: LrScaling, rate: float) -> None:
    recipe = solver("base_lr: 0.1 max_iter: 400")
    plan, changes = rescaled(recipe, Rescaling(64, 256, RECORDS), lr_scaling=scaling)
    assert plan.base_lr == pytest.approx(rate)
    assert ("base_lr" in {change.field for change in changes}) is (scaling is not LrScaling.NONE)


def test_nothing_changes_if_it_is_to_be_kept() -> None:
    recipe = solver("max_iter: 400 test_interval: 10")
    assert rescaled(recipe, Rescaling(64, 256, RECORDS), keep=True)[1] == []


def test_epochs_need_the_records() -> None:
    with pytest.raises(InputError, match="how many records make an epoch") as caught:
        rescaled(solver("max_iter: 400"), Rescaling(64, 64, None), epochs=Fraction(3))
    assert "--train-records" in str(caught.value)


def test_more_updates_than_caffe_counts() -> None:
    with pytest.raises(InputError, match="max_iter would be 5e\\+13 updates"):
        rescaled(solver("max_iter: 4"), Rescaling(1, 1, RECORDS), epochs=Fraction(10**9))


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("SGD", "--lr-scaling linear"), ("Nesterov", "--lr-scaling linear"),
     ("Adam", "--lr-scaling sqrt"), ("RMSProp", "--lr-scaling sqrt")],
)  # fmt: skip
def test_the_advice_is_for_the_update_rule(kind: str, advice: str) -> None:
    text = rate_advice(kind, Fraction(4), LrScaling.NONE)
    assert "4 times the recipe's" in text
    assert advice in text
    assert advice not in rate_advice(kind, Fraction(4), LrScaling.SQRT)
