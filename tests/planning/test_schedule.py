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
from caffe_batch.planning.edits.changes import Change, applied
from caffe_batch.planning.schedule.rescaling import (
    LrScaling,
    Rescaling,
    ScheduleOptions,
    rate_advice,
    schedule_changes,
    schedule_remarks,
)
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import MAX_DROPS
from caffe_batch.solver.drops import rate_drops
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.solver.testing import has_test_at_end

Solver = caffe_pb2.SolverParameter
RECORDS = 50_000


def solver(text: str) -> Solver:
    return text_format.Parse(text, Solver())


def rescaled(given_: Solver, scale: Rescaling, **options: Any) -> tuple[Solver, list[Change]]:
    """The solver as the plan has it, and what changed."""
    changes = schedule_changes(given_, scale, ScheduleOptions(**options))
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
        apart = set(after) & {new - 1, new + 1}  # two are never rounded to one update
        assert abs(new - exact) <= Fraction(1, 2) or (apart and abs(new - exact) < len(after))


def test_drops_that_would_fall_together_stay_apart() -> None:
    recipe = solver("max_iter: 9 lr_policy: 'multistep' gamma: 0.5 stepvalue: 1 stepvalue: 2")
    plan, _ = rescaled(recipe, Rescaling(1, 4, None))
    assert list(plan.stepvalue) == [1, 2]


def rates(given_: Solver) -> list[float]:
    """The rate of each update."""
    return [learning_rate(given_, done) for done in range(given_.max_iter)]


def test_a_drop_before_the_first_update_stays_there() -> None:
    recipe = solver(
        "max_iter: 90 lr_policy: 'multistep' gamma: 0.5 base_lr: 1 stepvalue: 0 stepvalue: 45"
    )
    plan, changes = rescaled(recipe, Rescaling(30, 10, RECORDS))
    assert list(plan.stepvalue) == [0, 135]
    assert "stepvalue[0]" not in {change.field for change in changes}
    assert rates(plan)[::3] == rates(recipe)


def test_a_drop_is_not_rounded_past_the_end() -> None:
    """Caffe's last update has max_iter - 1 updates before it: a drop at max_iter never happens."""
    recipe = solver("max_iter: 100 lr_policy: 'multistep' gamma: 0.5 stepvalue: 50 stepvalue: 99")
    plan, changes = rescaled(recipe, Rescaling(1, 10, RECORDS))
    assert (plan.max_iter, list(plan.stepvalue)) == (10, [5, 9])
    assert [change.reason for change in changes if change.path == ("stepvalue", 1)] == [
        "the drop stays where it is in the run, separate from the others and before max_iter "
        "(9.90 updates, rounded once)"
    ]
    assert list(schedule_remarks(recipe, plan)) == []


def test_drops_that_never_happen_still_dont() -> None:
    recipe = solver(
        "max_iter: 100 lr_policy: 'multistep' gamma: 0.5 stepvalue: 99 stepvalue: 100 "
        "stepvalue: 104"
    )
    plan, _ = rescaled(recipe, Rescaling(1, 10, RECORDS))
    assert (plan.max_iter, list(plan.stepvalue)) == (10, [9, 10, 10])


def test_a_step_that_is_rounded_past_the_end_is_listed() -> None:
    """Multiples of 30 up to 91: three drops. 10 would give two up to 30."""
    recipe = solver("max_iter: 91 lr_policy: 'step' stepsize: 30 gamma: 0.5")
    plan, _ = rescaled(recipe, Rescaling(1, 3, RECORDS))
    assert (plan.max_iter, plan.lr_policy, list(plan.stepvalue)) == (30, "multistep", [10, 20, 29])
    once = solver("max_iter: 100 lr_policy: 'step' stepsize: 50 gamma: 0.5")
    plan, _ = rescaled(once, Rescaling(33, 100, RECORDS))  # 16 would drop at 32 of 33 as well
    assert (plan.max_iter, plan.lr_policy, list(plan.stepvalue)) == (33, "multistep", [16])


def test_drops_that_have_no_update_left_are_reported() -> None:
    recipe = solver("max_iter: 9 lr_policy: 'multistep' gamma: 0.5 stepvalue: [2, 4, 6, 8]")
    plan, _ = rescaled(recipe, Rescaling(1, 3, RECORDS))
    assert (plan.max_iter, list(plan.stepvalue)) == (3, [1, 2, 3, 4])
    assert list(schedule_remarks(recipe, plan)) == [
        "2 of the recipe's 4 drops of the rate don't happen: the run has 3 updates, and Caffe "
        "drops the rate at most once per update."
    ]


@given(
    drops=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    step=st.integers(1, 200),
    policy=st.sampled_from(["step", "multistep"]),
    length=st.integers(2, 400),
    own=st.integers(1, 40),
    batch=st.integers(1, 40),
)
def test_every_drop_happens_in_the_plan_if_it_does_in_the_recipe(
    drops: list[int], step: int, policy: str, length: int, own: int, batch: int
) -> None:
    recipe = Solver(
        max_iter=length, lr_policy=policy, gamma=0.5, base_lr=1, stepsize=step,
        stepvalue=sorted(drops),
    )  # fmt: skip
    plan, _ = rescaled(recipe, Rescaling(own, batch, None))
    before, after = rates(recipe), rates(plan)
    number = len(rate_drops(recipe))
    assume(number <= MAX_DROPS)
    room = plan.max_iter - (0 not in rate_drops(recipe))
    assert after[-1] == before[-1] or number > room
    assert before[0] == after[0]
    assert after[-1] == 0.5 ** len(rate_drops(plan))


def test_a_run_shorter_than_the_interval_ends_with_a_test() -> None:
    recipe = solver("max_iter: 600 test_iter: 1 test_interval: 100 snapshot: 100 display: 100")
    plan, changes = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(4))
    assert {change.field: change.after for change in changes} == {
        "max_iter": 40, "test_interval": 40
    }  # fmt: skip
    assert changes[-1].reason == (
        "one test after the last update: the run has fewer than 100 updates"
    )
    plan, _ = rescaled(
        recipe, Rescaling(100, 100, 1000), epochs=Fraction(4), test_every=Fraction(5)
    )
    assert plan.test_interval == 40


@pytest.mark.parametrize(
    "fields", ["test_iter: 1 test_interval: 1000", "test_interval: 100"], ids=["never", "no net"]
)
def test_a_recipe_without_tests_gets_none(fields: str) -> None:
    recipe = solver(f"max_iter: 600 {fields}")
    _, changes = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(4))
    assert {change.field for change in changes} == {"max_iter"}


@pytest.mark.parametrize(
    ("snapshot", "after_train", "kept"),
    [
        (100, "true", False),
        (100, "false", True),  # none at all otherwise
        (700, "false", False),  # none in the recipe
        (0, "false", False),
        (20, "false", False),  # 40 is a multiple
        (24, "false", True),  # divides 600, not 40
        (36, "false", False),  # divides neither
    ],
)
def test_the_last_snapshot_is_kept(snapshot: int, after_train: str, kept: bool) -> None:
    recipe = solver(f"max_iter: 600 snapshot: {snapshot} snapshot_after_train: {after_train}")
    plan, changes = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(4))
    assert ("snapshot_after_train" in {change.field for change in changes}) is kept
    assert plan.snapshot == snapshot


def test_the_last_test_moves_with_the_end_of_the_run() -> None:
    recipe = solver("max_iter: 600 test_iter: 1 test_interval: 60")
    plan, changes = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(40))
    assert (plan.max_iter, plan.test_interval) == (400, 50)
    (change,) = (change for change in changes if change.field == "test_interval")
    assert change.reason.endswith("; 50 so that the last update is tested")
    plan, _ = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(30))
    assert (plan.max_iter, plan.test_interval) == (300, 60)


def test_a_run_of_few_divisors_moves_a_little() -> None:
    """1,066.7 and 266.7 updates: 1,067 is 11 x 97, so the run gets one update more."""
    recipe = solver("max_iter: 3200 test_iter: 1 test_interval: 800")
    plan, changes = rescaled(recipe, Rescaling(100, 300, None))
    assert (plan.max_iter, plan.test_interval) == (1068, 267)
    reasons = {change.field: change.reason for change in changes}
    assert reasons["max_iter"].endswith("; 1068 so that the last update is tested")


@given(
    interval=st.integers(1, 3000),
    tests=st.integers(1, 40),
    own=st.integers(1, 600),
    batch=st.integers(1, 600),
)
def test_the_last_update_is_tested_as_in_the_recipe(
    interval: int, tests: int, own: int, batch: int
) -> None:
    recipe = solver(f"max_iter: {interval * tests} test_iter: 1 test_interval: {interval}")
    plan, _ = rescaled(recipe, Rescaling(own, batch, None))
    assert has_test_at_end(plan)
    exact = Fraction(recipe.max_iter * own, batch)
    assert abs(plan.max_iter - exact) <= exact / 100 + 1


@given(
    epochs=st.integers(1, 60), every=st.integers(1, 10), batch=st.integers(1, 300),
    records=st.integers(300, 5000),
)  # fmt: skip
def test_tests_that_are_asked_for_end_with_the_run(
    epochs: int, every: int, batch: int, records: int
) -> None:
    recipe = solver("max_iter: 600 test_iter: 1 test_interval: 7")
    plan, _ = rescaled(
        recipe, Rescaling(batch, batch, records),
        epochs=Fraction(epochs * every), test_every=Fraction(every),
    )  # fmt: skip
    assert has_test_at_end(plan)
    assert plan.max_iter == max(1, round(Fraction(epochs * every * records, batch)))


@pytest.mark.parametrize("field", ["test_interval", "display", "snapshot"])
def test_an_interval_that_means_never_does_not_overflow(field: str) -> None:
    recipe = solver(f"max_iter: 600 test_iter: 1 {field}: 999999999")
    plan, _ = rescaled(recipe, Rescaling(100, 10, None))
    assert plan.max_iter == 6000
    assert getattr(plan, field) == 2**31 - 1


@pytest.mark.parametrize(
    "policy",
    [
        "step' stepsize: 999999999",
        "multistep' stepvalue: 999999999",
        "sigmoid' stepsize: 999999999",
    ],
)
def test_a_drop_that_never_comes_does_not_overflow(policy: str) -> None:
    recipe = solver(f"max_iter: 600 gamma: 0.1 lr_policy: '{policy}")
    plan, _ = rescaled(recipe, Rescaling(100, 10, None))
    assert plan.stepsize in (0, 2**31 - 1)
    assert list(plan.stepvalue) in ([], [2**31 - 1])


def test_a_solver_that_a_program_steps_keeps_its_epochs() -> None:
    """No max_iter: the intervals and drops are rescaled, and nothing is said of the end."""
    recipe = solver("lr_policy: 'step' gamma: 0.1 stepsize: 50 test_iter: 1 test_interval: 20")
    recipe.ClearField("max_iter")
    plan, _ = rescaled(recipe, Rescaling(100, 50, 1000))
    assert (plan.stepsize, plan.test_interval) == (100, 40)
    assert not plan.HasField("max_iter")
    plan, _ = rescaled(recipe, Rescaling(100, 50, 1000), epochs=Fraction(5))
    assert (plan.max_iter, plan.stepsize, plan.test_interval) == (100, 100, 40)
    multi = solver("lr_policy: 'multistep' gamma: 0.1 stepvalue: [30, 40]")
    multi.ClearField("max_iter")
    plan, _ = rescaled(multi, Rescaling(100, 50, 1000))
    assert list(plan.stepvalue) == [60, 80]


@pytest.mark.parametrize("policy", ["exp", "inv", "sigmoid"])
def test_the_reason_of_a_smooth_curve_says_over_what(policy: str) -> None:
    recipe = solver(f"max_iter: 600 lr_policy: '{policy}' gamma: 0.9 power: 1 stepsize: 300")
    _, changes = rescaled(recipe, Rescaling(100, 200, 1000))
    reasons = {change.field: change.reason for change in changes}
    assert reasons["gamma"] == f"the recipe's whole {policy} curve over the same samples"
    _, changes = rescaled(recipe, Rescaling(100, 100, 1000), epochs=Fraction(30))
    reasons = {change.field: change.reason for change in changes}
    assert reasons["gamma"] == f"the recipe's whole {policy} curve over the run's 30 epochs"
    if policy == "sigmoid":
        assert reasons["stepsize"] == "the middle of the curve stays where it is in the run"


def test_steps_that_dont_come_out_whole_dont_drift() -> None:
    recipe = solver("max_iter: 1000 lr_policy: 'step' stepsize: 100 gamma: 0.5 base_lr: 1")
    plan, changes = rescaled(recipe, Rescaling(100, 300, RECORDS))
    assert plan.lr_policy == "multistep"
    assert not plan.HasField("stepsize")
    assert list(plan.stepvalue) == [33, 67, 100, 133, 167, 200, 233, 267, 300]
    assert all("rounded separately" in c.reason for c in changes if c.path[0] == "stepvalue")
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
    with pytest.raises(InputError, match="the length of an epoch is not known") as caught:
        rescaled(solver("max_iter: 400"), Rescaling(64, 64, None), epochs=Fraction(3))
    assert "train_records" in str(caught.value)


def test_more_updates_than_caffe_counts() -> None:
    with pytest.raises(InputError, match="max_iter would be 5e\\+13 updates"):
        rescaled(solver("max_iter: 4"), Rescaling(1, 1, RECORDS), epochs=Fraction(10**9))


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("SGD", "lr_scaling linear"), ("Nesterov", "lr_scaling linear"),
     ("Adam", "lr_scaling sqrt"), ("RMSProp", "lr_scaling sqrt")],
)  # fmt: skip
def test_the_advice_is_for_the_update_rule(kind: str, advice: str) -> None:
    text = rate_advice(kind, Fraction(4), LrScaling.NONE)
    assert "4 times the recipe's" in text
    assert advice in text
    assert advice not in rate_advice(kind, Fraction(4), LrScaling.SQRT)
