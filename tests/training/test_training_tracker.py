"""The clock of a run: the worker's for its updates, this process's for what it hears of tests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from caffe_batch.engines.events import Built, LossRecord, NetTestOutput, NetTestStarted, Updated
from caffe_batch.jobs.metrics import MetricsFile, read_metrics
from caffe_batch.jobs.stages import read_stages
from caffe_batch.training.progress import RunFold
from caffe_batch.training.tracker import Tracker
from tests.planned_jobs import write_job


def test_nothing_is_measured_before_the_first_event(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=60)
    stages = read_stages(job.read_plan())
    with MetricsFile(job.metrics) as metrics:
        tracker = Tracker(
            stages, None, first_update=0, seconds_before=0.0, fold=RunFold(stages, None),
            metrics=metrics,
        )  # fmt: skip
        first = tracker.progress()
    assert not first.training
    assert (first.update, first.updates, first.loss, first.samples_per_s) == (0, 60, None, None)


def test_time_never_goes_back_with_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine hears of the last test of a stage long after the worker's last update."""
    job = write_job(tmp_path, max_iter=10, later=[{"max_iter": 20, "iter_size": 5}])
    stages = read_stages(job.read_plan())
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def one_stage(first: int) -> None:
        """10 updates in 0.2 s, and a test that is heard of after 0.9 s."""
        nonlocal now
        tracker.handle(Built(first))
        now += 0.9
        tracker.handle(NetTestStarted(first + 9, 0))
        tracker.handle(NetTestOutput(0, "accuracy", 0.5, False))
        records = (LossRecord(first + 10, 1.0, 0.2),)
        tracker.handle(Updated(first + 10, 0.2, records))

    with MetricsFile(job.metrics) as metrics:
        tracker = Tracker(
            stages, None, first_update=0, seconds_before=0.0, fold=RunFold(stages, None),
            metrics=metrics,
        )  # fmt: skip
        one_stage(0)
        one_stage(10)
    lines = list(read_metrics(job.metrics))
    assert [line.seconds for line in lines] == pytest.approx([0.9, 0.2, 1.8, 1.1])
