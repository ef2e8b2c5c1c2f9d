"""A plan with stages becomes a solver and a net for each, and real Caffe trains them as one job."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import engines, prototxt
from caffe_batch.jobs.job_files import JobFiles, write_job
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, make_plan
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.schedule.growth import PlannedStage, grow
from caffe_batch.planning.schedule.stage_changes import stage_changes
from caffe_batch.runtimes import Runtime
from caffe_batch.solver.decay import step_decay
from caffe_batch.training import JobDirectory, JobState, UpdateMetrics, read_metrics, train
from tests import planned_jobs
from tests.both_engines import runtime as runtime
from tests.planned_jobs import NET, RECORDS, write_lmdb

#: Batches of 6 take 12 updates for the 70 records; the rate drops after 2 and 4 of 6 epochs.
SOLVER = """\
net: "net.prototxt"
base_lr: 0.1  # the paper's
lr_policy: "multistep"
gamma: 0.5
stepvalue: [24, 48]
max_iter: 72
momentum: 0.9
test_iter: 7
test_interval: 12  # an epoch
snapshot_after_train: false
random_seed: 1
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFiles:
    """The job of a schedule that doubles the batch of 6 twice, in passes of 3 samples."""
    data = write_lmdb(tmp_path / "data")
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=6, width=8))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("solver.prototxt")
    sources = Sources(recipe.directories)
    model = engines.find(planned_jobs.engine).memory_model(recipe, sources, "cpu")
    options = PlanOptions(train_records=RECORDS, keep_tests=True)
    plan = make_plan(model, Budget(model.at(3).allocated_bytes, 0), options)
    assert (plan.batch_size, plan.iter_size) == (3, 2)
    decay = step_decay(recipe.solver, RECORDS, 6)
    stages = grow(decay, effective_batch=6, pass_samples=3, max_batch=24)
    split = [change for change in plan.changes if change.field != "iter_size"]
    planned = tuple(
        PlannedStage(
            stage,
            (
                *split,
                *own,
                *clipping(stage.iter_size),
            ),
        )
        for stage, own in zip(stages, stage_changes(recipe.solver, decay, stages), strict=True)
    )
    plan = replace(plan, stages=planned, changes=planned[0].changes)
    return write_job(plan, recipe, None, sources, tmp_path / "job")


def clipping(iter_size: int) -> tuple[Change, ...]:
    """A change that depends on iter_size, as a compensation does."""
    return (Change("net", ("name",), "tiny", f"tiny{iter_size}", "so that nets differ"),)


def solver_fields(files: JobFiles, number: int) -> dict[str, Any]:
    solver = prototxt.read_solver(files.stage_solver(number))
    return {field.name: value for field, value in solver.ListFields()}


def test_each_stage_has_a_solver_and_a_net(files: JobFiles) -> None:
    names = sorted(path.name for path in files.directory.glob("*.prototxt"))
    assert names == [
        "net.prototxt", "net.stage2.prototxt", "net.stage3.prototxt",
        "solver.prototxt", "solver.stage2.prototxt", "solver.stage3.prototxt",
    ]  # fmt: skip
    for number, (iter_size, last, every) in enumerate([(2, 24, 12), (4, 36, 10), (8, 42, 3)], 1):
        fields = solver_fields(files, number)
        assert (fields["iter_size"], fields["max_iter"]) == (iter_size, last)
        assert (fields["lr_policy"], fields["test_interval"]) == ("fixed", every)
        assert not {"gamma", "stepvalue"} & fields.keys()
        assert fields["snapshot_after_train"] is (number < 3)  # the last keeps the user's
        assert fields["net"] == str(files.stage_net(number))
        assert fields["snapshot_prefix"] == str(files.snapshot_prefix)
        net = prototxt.read_net(files.stage_net(number))
        assert net.name == f"tiny{iter_size}"
        assert net.layer[0].data_param.batch_size == 3
    assert "base_lr: 0.1  # the paper's\n" in files.stage_solver(3).read_text()


def test_stages_in_plan_json(files: JobFiles) -> None:
    content = json.loads(files.plan.read_text())
    assert [
        (p["first_update"], p["last_update"], p["first_epoch"], p["epochs"], p["solver"], p["net"])
        for p in content["stages"]
    ] == [
        (0, 24, 0.0, 2.0, "solver.prototxt", "net.prototxt"),
        (24, 36, 2.0, 2.0, "solver.stage2.prototxt", "net.stage2.prototxt"),
        (36, 42, 4.0, 2.0, "solver.stage3.prototxt", "net.stage3.prototxt"),
    ]
    assert [
        (p["batch_size"], p["iter_size"], p["effective_batch"], p["base_lr"])
        for p in content["stages"]
    ] == [(3, 2, 6, 0.1), (3, 4, 12, 0.1), (3, 8, 24, 0.1)]
    assert content["changes"] == content["stages"][0]["changes"]
    named = {change["field"]: change["to"] for change in content["stages"][2]["changes"]}
    assert named["net"] == str(files.stage_net(3))
    assert (named["iter_size"], named["max_iter"], named["name"]) == (8, 42, "tiny8")


@pytest.mark.both
def test_they_are_trained_as_one_job(runtime: Runtime, files: JobFiles) -> None:
    job = JobDirectory(files.directory)
    outcome = train(job, runtime)
    assert (outcome.state, outcome.update, outcome.updates) == (JobState.FINISHED, 42, 42)
    updates = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert [line.update for line in updates] == list(range(1, 43))
    assert [line.effective_batch for line in updates] == 24 * [6] + 12 * [12] + 6 * [24]
    assert updates[-1].samples == 3 * 2 * 72  # each epoch of each stage sees 72 samples
    log = job.log.read_text()
    assert "Solving tiny8\n" in log
    # A test at the end of each stage, one at each bound, an epoch between two where that can be.
    tested = re.findall(r"Iteration (\d+), Testing net", log)
    assert [int(update) for update in tested] == [0, 12, 24, 30, 36, 39, 42]
    taken = re.findall(r"Snapshotting to binary proto file .*_iter_(\d+)\.caffemodel", log)
    assert [int(update) for update in taken] == [24, 36]  # none at the end, as in the recipe
