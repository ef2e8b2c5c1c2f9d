"""TensorBoard's event files, read by TensorBoard's own reader."""

from __future__ import annotations

import math
import signal
import sys
import warnings
from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import (
    Metrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    read_metrics,
    rewind,
)
from caffe_batch.jobs.record import JobState
from caffe_batch.reporting.tensorboard import TensorBoardFiles
from caffe_batch.runtimes import Runtime
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.holding import Hold, WhenHeld, signal_self
from tests.planned_jobs import FinishedJob, write_job

Curves = dict[str, list[tuple[int, float]]]


def accumulated(folder: Path) -> Curves:
    """(step, value) of every scalar, as TensorBoard shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)]
                for tag in events.Tags()["scalars"]}  # fmt: skip


def wanted(job: JobDirectory) -> Curves:
    """The same, from metrics.jsonl."""
    curves: Curves = {}
    for line in read_metrics(job.metrics):
        if isinstance(line, UpdateMetrics):
            curves.setdefault("train/loss", []).append((line.update, line.loss or math.nan))
        elif isinstance(line, NetTestMetrics):
            tag = f"test_{line.test_net}/{line.output}_{line.index}"
            curves.setdefault(tag, []).append((line.update, line.value or 0.0))
    return curves


def assert_same(got: Curves, job: JobDirectory) -> None:
    for tag, points in wanted(job).items():
        assert [step for step, _ in got[tag]] == [step for step, _ in points], tag
        assert [value for _, value in got[tag]] == pytest.approx([value for _, value in points])


def test_every_value_of_a_real_run(finished: FinishedJob) -> None:
    job = finished.job
    with TensorBoardFiles(job) as files:
        files(finished.seen[-1])
    got = accumulated(job.tensorboard)
    assert_same(got, job)
    assert sorted(got) == [
        "test_0/accuracy_0", "test_0/loss_1", "train/effective_batch", "train/learning_rate",
        "train/loss", "train/samples_per_s",
    ]  # fmt: skip
    assert got["train/effective_batch"][0] == (1, 18.0)
    assert [value for _, value in got["train/learning_rate"][-2:]] == pytest.approx([0.05, 0.05])
    assert len(got["train/samples_per_s"]) > 0
    assert all(value > 0 for _, value in got["train/samples_per_s"])


def test_an_interrupted_run_has_each_step_once(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=400)
    interrupt = WhenHeld(Hold(job, 110), signal_self(signal.SIGTERM))
    with TensorBoardFiles(job) as files:

        def observe(progress: Progress) -> None:
            files(progress)
            interrupt(progress)

        assert train(job, runtime, Options(), observe).state is JobState.INTERRUPTED
    assert_same(accumulated(job.tensorboard), job)
    with TensorBoardFiles(job) as files:
        train(job, runtime, Options(), files)
    got = accumulated(job.tensorboard)
    assert_same(got, job)
    assert got["train/loss"][-1][0] == 400


def line(update: int, loss: float | None = 0.5) -> Metrics:
    return UpdateMetrics(update, loss, 0.1, 18 * update, None, 0.5 * update, 18)


def test_a_run_that_goes_back_while_it_is_followed(finished: FinishedJob, tmp_path: Path) -> None:
    """A TensorBoard that has read the steps before forgets them too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = write_job(tmp_path)
    progress = finished.seen[-1]
    with TensorBoardFiles(job) as files:
        with MetricsFile(job.metrics) as metrics:
            for update in range(1, 41):
                metrics.append(line(update))
        files(progress)
        files._close()  # so that all of it is on the disk
        looking_on = EventAccumulator(str(job.tensorboard))
        looking_on.Reload()
        assert len(looking_on.Scalars("train/loss")) == 40
        rewind(job.metrics, 20, tests_again=False)
        with MetricsFile(job.metrics) as metrics:
            for update in range(21, 31):
                metrics.append(line(update, 0.25))
        files(progress)
    got = accumulated(job.tensorboard)["train/loss"]
    assert got == [(update, 0.5 if update <= 20 else 0.25) for update in range(1, 31)]
    looking_on.Reload()
    assert [event.step for event in looking_on.Scalars("train/loss")] == list(range(1, 31))


def test_a_loss_that_is_not_a_number(finished: FinishedJob, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with MetricsFile(job.metrics) as metrics:
        metrics.append(line(1, None))
    with TensorBoardFiles(job) as files:
        files(finished.seen[-1])
    ((step, value),) = accumulated(job.tensorboard)["train/loss"]
    assert step == 1
    assert math.isnan(value)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="tensorboard needs the package tensorboard"):
        TensorBoardFiles(write_job(tmp_path))
