"""``--keep-best``: the snapshot with the best test stays, and has the weights of that test."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch import engines
from caffe_batch.errors import InputError
from caffe_batch.jobs.best import Metric
from caffe_batch.jobs.metrics import NetTestMetrics, read_metrics
from caffe_batch.reporting.outcome_view import outcome_lines
from caffe_batch.runtimes import Runtime
from caffe_batch.training.options import Options
from caffe_batch.training.snapshot_keeper import BestTest
from caffe_batch.training.supervisor import train
from caffe_batch.training.trained import choose_weights
from tests.both_engines import runtime as runtime
from tests.planned_jobs import write_job


def score(update: int, value: float, *, is_loss: bool = False, net: int = 0) -> NetTestMetrics:
    return NetTestMetrics(update, net, 0, "loss" if is_loss else "accuracy", value, is_loss, 0.0)


@pytest.mark.both
def test_the_best_snapshot_stays(tmp_path: Path, runtime: Runtime) -> None:
    # The rate makes the loss of the first test the lowest one.
    job = write_job(
        tmp_path, max_iter=20, test_interval=4, snapshot=7, base_lr=0.3, gamma=8, stepsize=4
    )
    train(job, runtime, Options(keep_best=Metric("loss")))
    found = cb.Job(job.path)
    tests = {
        line.update: line.value
        for line in found.metrics
        if isinstance(line, NetTestMetrics) and line.is_loss and line.update
    }
    assert sorted(tests) == [4, 8, 12, 16, 20]
    best = min(tests, key=lambda update: tests[update] or 0.0)
    assert {each.update for each in found.snapshots} == {best, 20}
    assert best < 20
    tested = cb.test(
        job.path, best="loss", cpu=True, runtime=runtime, worst=0, engine=found.last_engine
    )
    assert tested.chosen.update == best
    assert tested.outputs["loss"][0] == pytest.approx(tests[best], rel=1e-5)


def test_which_one_is_the_best() -> None:
    best = BestTest(Metric("accuracy"))
    best.continue_from(
        [score(10, 0.5), score(20, 0.7), score(30, 0.7), score(40, 0.9, net=1)], {10, 20, 30, 40}
    )
    assert [update for update in (10, 20, 30, 40) if best.stays(update)] == [20, 40]
    second = BestTest(Metric("accuracy", 1))
    second.continue_from(
        [score(10, 0.9), score(20, 0.2, net=1), score(30, 0.1, net=1)], {10, 20, 30}
    )
    assert [update for update in (10, 20, 30) if second.stays(update)] == [20]
    lowest = BestTest(Metric("loss"))
    lowest.continue_from(
        [score(10, 2.0, is_loss=True), score(20, float("nan"), is_loss=True)], {10, 20}
    )
    assert [update for update in (10, 20) if lowest.stays(update)] == [10]


def test_a_snapshot_that_is_gone_is_not_the_best() -> None:
    best = BestTest(Metric("accuracy"))
    best.continue_from([score(10, 0.9), score(20, 0.7), score(30, 0.1)], {20, 30})
    assert [update for update in (20, 30) if best.stays(update)] == [20]


def test_a_metric_that_no_test_has(tmp_path: Path, caffes_runtime: Runtime) -> None:
    job = write_job(tmp_path)
    for metric in ("acuracy", "1:accuracy", "ip2"):
        with pytest.raises(InputError, match="the tests have no such output"):
            train(job, caffes_runtime, Options(keep_best=Metric.parse(metric)))
    assert not job.snapshots.exists()


def test_a_solver_without_tests(tmp_path: Path, caffes_runtime: Runtime) -> None:
    job = write_job(tmp_path, test_iter=None, test_interval=None)
    with pytest.raises(InputError, match="the solver makes no tests"):
        train(job, caffes_runtime, Options(keep_best=Metric("accuracy")))


def test_a_run_that_goes_on_still_keeps_the_best(tmp_path: Path, caffes_runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=12, test_interval=4, base_lr=0.3, gamma=8, stepsize=4)
    train(job, caffes_runtime, Options(keep_best=Metric("loss")))
    outcome = cb.Job(job.path).train(updates="+8", cpu=True)
    record = job.read_record()
    assert record is not None
    note = "The best snapshot by loss is still kept; --keep-best none ends that."
    assert note in record.attempts[-1].choices
    tests = [
        line for line in read_metrics(job.metrics)
        if isinstance(line, NetTestMetrics) and line.is_loss and line.update and line.value
    ]  # fmt: skip
    best = min(tests, key=lambda line: line.value or 0.0)
    assert {each.update for each in cb.Job(job.path).snapshots} == {best.update, 20}
    assert best.update < 20
    chosen = choose_weights(job, engines.find("caffe"), best=True)
    assert chosen.score == best
    (line,) = [
        line for line in outcome_lines(job, outcome.scores, cb.Job(job.path).snapshots)
        if line.startswith("best:")
    ]  # fmt: skip
    assert line.startswith(f"best:  loss {best.value:.4g} (after update {best.update}: ")

    cb.Job(job.path).train(updates="+8", keep_best="none", cpu=True)
    record = job.read_record()
    assert record is not None
    assert record.keep_best is None
    assert [each.update for each in cb.Job(job.path).snapshots] == [best.update, 20, 28]
    cb.Job(job.path).train(updates="+4", cpu=True)
    assert [each.update for each in cb.Job(job.path).snapshots] == [best.update, 20, 28, 32]


def test_a_restart_forgets_what_the_best_was_kept_by(
    tmp_path: Path, caffes_runtime: Runtime
) -> None:
    job = write_job(tmp_path, max_iter=12, test_interval=4)
    train(job, caffes_runtime, Options(keep_best=Metric("loss")))
    train(job, caffes_runtime, Options(restart=True))
    record = job.read_record()
    assert record is not None
    assert record.keep_best is None
    assert [each.update for each in cb.Job(job.path).snapshots] == [12]


def test_metrics_are_read_once_more(tmp_path: Path, caffes_runtime: Runtime) -> None:
    """A run that goes on knows the tests before."""
    job = write_job(tmp_path, max_iter=12, test_interval=4, base_lr=0.3, gamma=8, stepsize=4)
    train(job, caffes_runtime, Options(keep_best=Metric("loss")))
    cb.Job(job.path).train(updates="+4", keep_best="loss", cpu=True)
    tests = [
        line for line in read_metrics(job.metrics)
        if isinstance(line, NetTestMetrics) and line.is_loss and line.update and line.value
    ]  # fmt: skip
    best = min(tests, key=lambda line: line.value or 0.0).update
    assert {each.update for each in cb.Job(job.path).snapshots} == {best, 16}
