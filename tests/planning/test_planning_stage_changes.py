"""What the stages of a growing batch change in the solver: rates, lengths, tests, snapshots."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from caffe_batch.planning.schedule.growth import Schedule, Stage, grow
from caffe_batch.planning.schedule.stage_changes import growth_remarks, stage_changes
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import step_decay

RECORDS = 50_000

#: The recipe of Smith et al. for CIFAR-10, with a test and 4 displays an epoch.
RECIPE: dict[str, Any] = {
    "base_lr": 0.1, "lr_policy": "multistep", "gamma": 0.2, "stepvalue": [23460, 46920, 62560],
    "max_iter": 78200, "iter_size": 1, "display": 100, "test_iter": [1], "test_interval": 391,
}  # fmt: skip


def solver_of(**fields: Any) -> caffe_pb2.SolverParameter:
    return caffe_pb2.SolverParameter(**{**RECIPE, **fields})


PAPER = step_decay(solver_of(), RECORDS, 128)


def paper(schedule: Schedule = Schedule.GROW) -> tuple[Stage, ...]:
    return grow(PAPER, effective_batch=128, pass_samples=64, schedule=schedule, max_batch=5120)


def fields_of(solver: caffe_pb2.SolverParameter, **every: Fraction) -> list[dict[str, Any]]:
    changes = stage_changes(solver, PAPER, paper(), every)
    return [{change.field: change.after for change in stage} for stage in changes]


def test_all_that_a_stage_changes() -> None:
    solver = solver_of(snapshot_after_train=False)
    _, changes, _, last = stage_changes(solver, PAPER, paper())
    assert [(change.field, change.before, change.after) for change in changes] == [
        ("iter_size", 1, 10),
        ("lr_policy", "multistep", "fixed"),
        ("gamma", 0.2, None),
        ("stepvalue[2]", 62560, None),
        ("stepvalue[1]", 46920, None),
        ("stepvalue[0]", 23460, None),
        ("max_iter", 78200, 28200),
        ("display", 100, 20),  # an epoch takes 79 updates
        ("test_interval", 391, 75),  # 28200 is not a multiple of 79
        ("snapshot_after_train", False, True),
    ]
    fields = {change.field: change.after for change in last}
    assert fields["base_lr"] == 0.032
    assert (fields["max_iter"], fields["display"]) == (29240, 3)
    assert "snapshot_after_train" not in fields


def test_each_bound_of_the_paper_is_tested_once() -> None:
    fields, stages = fields_of(solver_of()), paper()
    intervals = [391, *(each["test_interval"] for each in fields[1:])]
    assert "test_interval" not in fields[0]
    bounds = [stage.last_update for stage in stages]
    for bound, before, after in zip(bounds, intervals, intervals[1:], strict=False):
        assert (bound % before == 0) + (bound % after == 0) == 1
    assert bounds[-1] % intervals[-1] == 0
    for interval, wanted in zip(intervals, (391, 79, 16, 10), strict=True):
        assert wanted / 1.5 < interval < wanted * 1.5


def test_a_reason_says_what_is_moved() -> None:
    (change,) = (
        each for each in stage_changes(solver_of(), PAPER, paper())[1] if
        each.field == "test_interval"
    )  # fmt: skip
    assert change.reason == (
        "an epoch takes 79 updates instead of 391, 79; each stage boundary should have one test"
    )


@pytest.mark.parametrize(
    "fields", [{"test_iter": []}, {"test_interval": 10**6}], ids=["no test net", "never"]
)
def test_who_never_tests_gets_no_test(fields: dict[str, Any]) -> None:
    for each, stage in zip(fields_of(solver_of(**fields)), paper(), strict=True):
        interval = each.get("test_interval", fields.get("test_interval", 391))
        exact = fields.get("test_interval", 391) * Fraction(stage.updates_per_epoch, 391)
        assert abs(interval - exact) <= Fraction(1, 2)


def test_epochs_between_tests() -> None:
    stages = paper()
    spaced = fields_of(solver_of(), test_interval=Fraction(10))
    for each, stage in zip(spaced, stages, strict=True):
        assert 5 < each["test_interval"] / stage.updates_per_epoch < 20
    assert stages[-1].last_update % spaced[-1]["test_interval"] == 0


@pytest.mark.parametrize(
    ("snapshot", "kept"),
    [(0, False), (23460, False), (7820, True), (10**6, False)],
    ids=["none", "not at the end", "at the end", "never"],
)
def test_the_last_snapshot_is_there_if_the_recipe_has_it(snapshot: int, kept: bool) -> None:
    """7820 divides 78200; what becomes of it, 200, doesn't divide 29240."""
    solver = solver_of(snapshot=snapshot, snapshot_after_train=False)
    assert ("snapshot_after_train" in fields_of(solver)[-1]) is kept
    assert all(each["snapshot_after_train"] for each in fields_of(solver)[:-1])


def test_how_often_the_records_are_seen_is_reported() -> None:
    """1437 records in batches of 128: 12 updates an epoch, for 1536 samples."""
    solver = solver_of(stepvalue=[120], max_iter=240, test_interval=12)
    decay = step_decay(solver, 1437, 128)
    stages = grow(decay, effective_batch=128, pass_samples=64, max_batch=640)
    samples = sum((each.last_update - each.first_update) * each.effective_batch for each in stages)
    (remark,) = growth_remarks(solver, decay, stages, {})
    assert remark == (
        "An epoch of a stage is records / batch updates, rounded up: 20 of them see the records "
        f"{samples / 1437:.6g} times, and those are the epochs that training shows."
    )
    exact = step_decay(solver, 1280, 128)
    grown = grow(exact, effective_batch=128, pass_samples=64, max_batch=640)
    assert not [each for each in growth_remarks(solver, exact, grown, {}) if "records" in each]


def test_tests_far_from_where_they_should_be_are_reported() -> None:
    """The last stage ends at update 29243, a prime: only that can be its interval."""
    solver = solver_of(max_iter=78317)
    decay = step_decay(solver, RECORDS, 128)
    stages = grow(decay, effective_batch=128, pass_samples=64, max_batch=5120)
    assert stages[-1].last_update == 29243
    fields = {change.field: change.after for change in stage_changes(solver, decay, stages)[-1]}
    assert fields["test_interval"] == 29243
    assert [each for each in growth_remarks(solver, decay, stages, {}) if "tests" in each] == [
        "Stage 4 tests every 29243 updates instead of 10: Caffe tests at multiples of "
        "test_interval, and each stage boundary should have one test."
    ]
