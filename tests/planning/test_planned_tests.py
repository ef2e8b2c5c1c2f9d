"""The batches of the test nets: they make room for the train net and cover the test set once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import DoesNotFitError
from caffe_batch.jobs.job_files import write_job
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, Plan, PlanOptions, Verdict, make_plan
from caffe_batch.planning.audit.findings import Cause, Finding
from caffe_batch.planning.edits.changes import Change, applied
from caffe_batch.planning.schedule.rescaling import ScheduleOptions
from caffe_batch.planning.split.net_tests import NetTest, group_tests, largest_that_fit, smallest
from caffe_batch.sizes import format_size

NET = """
layer {{ name: "data" type: "Input" top: "data" top: "label" include {{ phase: TRAIN }}
  input_param {{ shape {{ dim: 60 dim: 3 dim: 5 dim: 7 }} shape {{ dim: 60 }} }} }}
layer {{ name: "data" type: "Input" top: "data" top: "label" include {{ phase: TEST }}
  input_param {{ shape {{ dim: 50 dim: 3 dim: 5 dim: 7 }} shape {{ dim: 50 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 6 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" {loss} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  {accuracy} include {{ phase: TEST }} }}
"""
SOLVER = 'net: "net.prototxt" max_iter: 100 test_iter: 4 test_interval: 10'


def model(folder: Path, loss: str = "", accuracy: str = "", solver: str = SOLVER) -> CaffeMemory:
    (folder / "net.prototxt").write_text(NET.format(loss=loss, accuracy=accuracy))
    (folder / "solver.prototxt").write_text(solver)
    recipe = read_recipe(folder / "solver.prototxt")
    return CaffeMemory(recipe, Sources(recipe.directories))


def planned(of: CaffeMemory, usable: int, **options: Any) -> Plan:
    return make_plan(of, Budget(usable, 0), PlanOptions(**options))


def of_tests(plan: Plan) -> list[Finding]:
    return [finding for finding in plan.findings if finding.cause is Cause.TEST_BATCHES]


def test_batches_stay_where_there_is_room(tmp_path: Path) -> None:
    plan = planned(model(tmp_path), 2**30)
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(50, 4)]
    assert plan.changes == ()
    assert of_tests(plan) == []


def test_they_make_room_for_a_larger_micro_batch(tmp_path: Path) -> None:
    recipe = model(tmp_path)
    usable = recipe.with_test_batches((25,)).at(60).allocated_bytes
    assert recipe.at(60).allocated_bytes > usable  # with the file's own 50 it doesn't fit
    plan = planned(recipe, usable)
    assert (plan.batch_size, plan.iter_size) == (60, 1)
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(25, 8)]
    assert {(change.file, change.field): change.after for change in plan.changes} == {
        ("net", 'layer "data" input_param.shape[0].dim[0]'): 25,
        ("net", 'layer "data" input_param.shape[1].dim[0]'): 25,
        ("solver", "test_iter[0]"): 8,
    }
    # What the plan predicts is what the changed files take, and the next larger batch doesn't fit.
    changed = CaffeMemory(applied(recipe.recipe, plan.changes), recipe.sources).at()
    assert plan.predicted_peak_bytes == changed.peak_bytes <= usable
    assert recipe.with_test_batches((40,)).at(60).allocated_bytes > usable
    (finding,) = of_tests(plan)
    assert finding.verdict is Verdict.EXACT


def test_they_stay_if_they_are_to_be_kept(tmp_path: Path) -> None:
    recipe = model(tmp_path)
    usable = recipe.with_test_batches((25,)).at(60).allocated_bytes
    plan = planned(recipe, usable, keep_tests=True)
    assert plan.batch_size < 60
    assert plan.tests == ()


def test_one_test_covers_the_records_once(tmp_path: Path) -> None:
    plan = planned(model(tmp_path), 2**30, test_records=(1000,))
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(50, 20)]
    (change,) = plan.changes
    assert change.reason == "one test covers the 1,000 records once"


def test_a_divisor_not_far_below_is_better_than_counting_records_twice(tmp_path: Path) -> None:
    plan = planned(model(tmp_path), 2**30, test_records=(360,))
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(45, 8)]
    plan = planned(model(tmp_path), 2**30, test_records=(1009,))  # a prime
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(50, 21)]
    assert "(41 of them twice)" in plan.changes[-1].reason


@pytest.mark.parametrize("records", [1, 12, 30, 49])
def test_a_batch_isnt_larger_than_the_test_set(tmp_path: Path, records: int) -> None:
    plan = planned(model(tmp_path), 2**30, test_records=(records,))
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(records, 1)]
    assert plan.changes[-1].reason == f"one test covers the {records} records once"


@pytest.mark.parametrize(
    ("loss", "accuracy", "fair"),
    [
        ("", "", True),
        ("loss_param { normalization: NONE }", "", False),
        ("loss_param { ignore_label: 3 }", "", False),
        ("", "accuracy_param { ignore_label: 3 }", False),
        ("", 'top: "by_class"', False),
    ],
)
def test_scores_that_are_not_a_mean_over_samples_are_named(
    tmp_path: Path, loss: str, accuracy: str, fair: bool
) -> None:
    recipe = model(tmp_path, loss, accuracy)
    usable = recipe.with_test_batches((25,)).at(60).allocated_bytes
    (finding,) = of_tests(planned(recipe, usable))
    assert finding.verdict is (Verdict.EXACT if fair else Verdict.APPROXIMATE)


def test_a_test_net_inside_the_solver(tmp_path: Path) -> None:
    text = NET.format(loss="", accuracy="")
    test = text.replace("include { phase: TRAIN }", 'include { stage: "never" }').replace(
        "include { phase: TEST }", ""
    )
    solver = (
        'train_net: "net.prototxt" max_iter: 100 test_iter: 4 test_interval: 10 '
        f"test_net_param {{ {test} }}"
    )
    recipe = model(tmp_path, solver=solver)
    usable = recipe.with_test_batches((25,)).at(60).allocated_bytes
    plan = planned(recipe, usable)
    fields = {change.field for change in plan.changes if change.file == "solver"}
    assert "test_net_param[0].layer[1].input_param.shape[0].dim[0]" in fields
    changed = CaffeMemory(applied(recipe.recipe, plan.changes), recipe.sources)
    assert plan.predicted_peak_bytes == changed.at().peak_bytes


@given(
    own=st.integers(1, 300),
    records=st.integers(1, 2000),
    room=st.integers(1, 300),
)
def test_the_largest_batch_that_fits_or_a_divisor_close_to_it(
    own: int, records: int, room: int
) -> None:
    test = NetTest(0, own, 3, records, shared=False, leader=0)
    groups = group_tests([test])
    start = smallest(groups, 1)
    assert start == (1,)
    (size,) = largest_that_fit(groups, start, lambda sizes: (sizes[0] or 0) <= room)
    assert size is not None
    allowed = [each for each in test.sizes() if each <= room]
    assert size in allowed
    assert 2 * size >= max(allowed)
    if size != max(allowed):
        assert records % size == 0
    assert test.iter_for(size) * size >= records > (test.iter_for(size) - 1) * size


#: Two tests that read one TEST layer; the second scores something else.
TWO_TESTS = (
    NET.format(loss="", accuracy="")
    + """
layer { name: "top2" type: "Accuracy" bottom: "ip" bottom: "label" top: "top2"
  accuracy_param { top_k: 2 } include { phase: TEST stage: "second" } }
"""
)
TWO_SOLVER = """
net: "net.prototxt" max_iter: 100 test_iter: 4 test_iter: 6 test_interval: 10
test_state { } test_state { stage: "second" }
"""


def test_two_tests_through_one_layer_have_one_batch_size(
    tmp_path: Path, pycaffe: Callable[..., str]
) -> None:
    (tmp_path / "net.prototxt").write_text(TWO_TESTS)
    (tmp_path / "solver.prototxt").write_text(TWO_SOLVER)
    recipe = read_recipe(tmp_path / "solver.prototxt")
    files = CaffeMemory(recipe, Sources(recipe.directories))
    usable = files.with_test_batches((25, 25)).at(60).allocated_bytes
    plan = planned(files, usable)
    assert (plan.batch_size, plan.iter_size) == (60, 1)
    # 4 x 50 and 6 x 50 samples, as in the files: 25 divides both.
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(25, 8), (25, 12)]
    assert {change.field: change.after for change in plan.changes} == {
        'layer "data" input_param.shape[0].dim[0]': 25,
        'layer "data" input_param.shape[1].dim[0]': 25,
        "test_iter[0]": 8,
        "test_iter[1]": 12,
    }
    assert len(plan.changes) == 4
    written = write_job(plan, recipe, None, files.sources, tmp_path / "job")
    shapes = pycaffe(
        "import caffe, sys; s = caffe.get_solver(sys.argv[1]); "
        "print([net.blobs['data'].num for net in s.test_nets], s.net.blobs['data'].num)",
        str(written.solver),
    )
    assert shapes.strip() == "[25, 25] 60"


def test_two_values_for_one_field_are_refused(tmp_path: Path) -> None:
    recipe = model(tmp_path).recipe
    change = Change("solver", ("max_iter",), 100, 50, "half")
    assert applied(recipe, [change, change]).solver.max_iter == 50
    with pytest.raises(ValueError, match="two values for max_iter: 50, 60"):
        applied(recipe, [change, replace(change, after=60)])


#: A loss that is a sum is compensated by a layer behind it, which takes memory of its own.
SUMMED = "loss_param { normalization: NONE }"


@pytest.mark.parametrize("loss", ["", SUMMED])
def test_more_memory_never_means_more_passes(tmp_path: Path, loss: str) -> None:
    recipe = model(tmp_path, loss)
    least = recipe.with_test_batches((1,)).at(1).allocated_bytes
    most = recipe.at(60).allocated_bytes
    budgets = sorted({*range(least, most, max(1, (most - least) // 150)), least, most})
    passes = []
    for usable in budgets:
        plan = planned(recipe, usable, test_records=(1009,))
        assert plan.predicted_peak_bytes <= usable
        passes.append(plan.iter_size)
    assert passes == sorted(passes, reverse=True)
    assert len(set(passes)) > 5


#: Makes a score depend on the test batch.
NORMS = """
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip"
  batch_norm_param { use_global_stats: false } include { phase: TEST } }
"""


def bound_model(folder: Path, solver: str = SOLVER, norms: str = NORMS) -> CaffeMemory:
    """The net with a layer in TEST between ip and the loss."""
    recipe = model(folder, solver=solver)
    before, loss, after = (folder / "net.prototxt").read_text().partition('layer { name: "loss"')
    (folder / "net.prototxt").write_text(before + norms + loss + after)
    return CaffeMemory(read_recipe(folder / "solver.prototxt"), recipe.sources)


def budgets_of(recipe: CaffeMemory) -> list[int]:
    """From the smallest plan to one in which everything stays."""
    least = recipe.with_test_batches((1,)).at(1).allocated_bytes
    most = recipe.at(60).allocated_bytes
    return sorted({*range(least, most, (most - least) // 24), least, most})


def test_passes_rise_once_at_most_where_a_test_batch_stays(tmp_path: Path) -> None:
    """Where nothing fits beside the test batch it shrinks; with more memory it stays for good."""
    recipe = bound_model(tmp_path)
    splits, prices = [], []
    for usable in budgets_of(recipe):
        plan = planned(recipe, usable)
        least = planned(recipe, usable, shrink_tests=True)
        assert plan.predicted_peak_bytes <= usable
        (test,), (other,) = plan.tests, least.tests
        kept = test.batch_size == 50
        (note,) = [r for r in plan.remarks if "'bn' normalises" in r] or [""]
        verdicts = [finding.verdict for finding in of_tests(plan)]
        if not kept:
            assert (plan.batch_size, plan.iter_size) == (least.batch_size, least.iter_size)
            assert f"gets batches of {test.batch_size} instead of 50" in note
            assert verdicts == [Verdict.DIFFERENT]
        elif plan.iter_size > least.iter_size:
            assert (
                f"{plan.batch_size} x {plan.iter_size} instead of {least.batch_size} x "
                f"{least.iter_size}, which --shrink-tests gives, with test batches of "
                f"{other.batch_size}." in note
            )
            prices.append(note)
        else:
            assert not note
        assert not kept or verdicts == []
        splits.append((kept, plan.iter_size))
    assert prices
    sides = [[passes for kept, passes in splits if kept is side] for side in (False, True)]
    assert splits == [(side, passes) for side in (False, True) for passes in sides[side]]
    assert all(len(set(side)) > 1 and side == sorted(side, reverse=True) for side in sides)


def test_the_note_says_from_which_budget_on_a_test_batch_stays(tmp_path: Path) -> None:
    recipe = bound_model(tmp_path)
    needed = recipe.at(1).allocated_bytes
    (note,) = [r for r in planned(recipe, needed - 1).remarks if "'bn' normalises" in r]
    assert f"beside 50 even batch_size 1 needs {format_size(needed)}." in note
    assert [test.batch_size for test in planned(recipe, needed).tests] == [50]


DRAWS = """
layer { name: "noise" type: "DummyData" top: "noise" include { phase: TEST }
  dummy_data_param { shape { dim: 6 } data_filler { type: "gaussian" } } }
layer { name: "add" type: "Bias" bottom: "ip" bottom: "noise" top: "ip" include { phase: TEST } }
"""
NEVER = SOLVER.replace("val: 10", "val: 999999999") + " test_initialization: false"
ASIDE = """
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "aside"
  batch_norm_param { use_global_stats: false } include { phase: TEST } }
layer { name: "silence" type: "Silence" bottom: "aside" include { phase: TEST } }
"""


@pytest.mark.parametrize(
    ("norms", "solver", "options"),
    [
        (NORMS, SOLVER, {"shrink_tests": True}),
        (NORMS, SOLVER.replace("test_iter: 4", "test_iter: 0"), {}),
        (NORMS, NEVER, {}),
        (DRAWS, SOLVER, {}),
        (ASIDE, SOLVER, {}),
    ],
    ids=["asked for", "no batch", "never", "draws alone", "no output reads it"],
)  # fmt: skip
def test_passes_never_rise_where_no_score_is_at_stake(
    tmp_path: Path, norms: str, solver: str, options: dict[str, bool]
) -> None:
    recipe = bound_model(tmp_path, solver, norms)
    plans = [planned(recipe, usable, **options) for usable in budgets_of(recipe)]
    passes = [plan.iter_size for plan in plans]
    assert passes == sorted(passes, reverse=True)
    assert len(set(passes)) > 3
    verdicts = {finding.verdict for plan in plans for finding in of_tests(plan)}
    assert (Verdict.DIFFERENT in verdicts) == bool(options)


def test_a_test_that_only_another_length_brings_counts(tmp_path: Path) -> None:
    """The recipe never tests, but --test-every does."""
    recipe = bound_model(tmp_path, NEVER)
    usable = recipe.at(1).allocated_bytes
    asked = {"schedule": ScheduleOptions(test_every=Fraction(1)), "train_records": 600}
    assert [test.batch_size for test in planned(recipe, usable, **asked).tests] == [50]
    assert planned(recipe, usable).tests[0].batch_size < 50


def test_a_test_of_one_sample_makes_room(tmp_path: Path) -> None:
    """The whole batch fits with test batches of 1 alone: that is one pass, not two."""
    recipe = model(tmp_path)
    usable = recipe.with_test_batches((1,)).at(60).allocated_bytes
    assert recipe.with_test_batches((2,)).at(60).allocated_bytes > usable
    plan = planned(recipe, usable)
    assert (plan.batch_size, plan.iter_size) == (60, 1)
    assert [(test.batch_size, test.test_iter) for test in plan.tests] == [(1, 200)]


def test_what_does_not_fit_is_measured_by_the_smallest_plan(tmp_path: Path) -> None:
    recipe = model(tmp_path)
    least = recipe.with_test_batches((1,)).at(1).allocated_bytes
    assert planned(recipe, least).iter_size == 60
    with pytest.raises(DoesNotFitError) as error:
        planned(recipe, least - 1)
    assert error.value.missing_bytes == 1
    assert "smaller TEST" not in str(error.value.hint)


def test_a_test_batch_that_no_blob_holds_is_planned_smaller(tmp_path: Path) -> None:
    """Caffe counts the elements of a blob in an int32; the reason of the change says so."""
    recipe = model(tmp_path)
    text = (tmp_path / "net.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(text.replace("dim: 50", "dim: 30000000"))
    recipe = CaffeMemory(read_recipe(tmp_path / "solver.prototxt"), recipe.sources)
    plan = planned(recipe, 2**40)
    (test,) = plan.tests
    assert test.batch_size * 3 * 5 * 7 <= 2**31 - 1
    assert test.batch_size * test.test_iter == 4 * 30_000_000
    reason = next(change.reason for change in plan.changes if change.file == "net")
    assert reason.startswith("Caffe refuses the batch of 30000000: ")


def test_a_batch_that_is_smaller_only_to_cover_the_set_says_so(tmp_path: Path) -> None:
    plan = planned(model(tmp_path), 2**30, test_records=(360,))
    reason = next(change.reason for change in plan.changes if change.file == "net")
    assert reason == "batches of 45 make up the 360 samples of a test"


@pytest.mark.parametrize("number", [0, -3])
def test_a_test_without_batches_stays_without(tmp_path: Path, number: int) -> None:
    recipe = model(tmp_path, solver=SOLVER.replace("test_iter: 4", f"test_iter: {number}"))
    plan = planned(recipe, 2**30, test_records=(1000,))
    assert plan.changes == ()
    assert any(f"test_iter of test net 0 is {number} and stays so" in r for r in plan.remarks)
