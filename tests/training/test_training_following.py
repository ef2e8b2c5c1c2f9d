"""A run seen through its files: what they say while it is going on, and after any end."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch.device import Device
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.metrics import (
    MetricsFile,
    MetricsFollower,
    UpdateMetrics,
    read_metrics,
    rewind,
)
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.training import Progress, train
from caffe_batch.training.following import RunFollower, RunState, Status
from caffe_batch.training.memory_meter import MemoryMeter
from caffe_batch.training.options import Options
from tests import planned_jobs
from tests.both_engines import runtime as runtime
from tests.command import call
from tests.planned_jobs import FinishedJob, write_job, write_lmdb

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "0.1.0"


def status_of(job: JobDirectory) -> Status:
    with closing(RunFollower(job)) as follower:
        return follower.status()


def measured(progress: Progress) -> dict[str, object]:
    """What the lines of metrics.jsonl decide of what is shown."""
    own = ("notes", "training", "predicted_bytes", "used_bytes")
    return {name: value for name, value in vars(progress).items() if name not in own}


def line(update: int) -> UpdateMetrics:
    return UpdateMetrics(update, 1.0 / update, 0.1, 18 * update, 0.25 * update, 0.5 * update, 18)


def test_a_planned_job(tmp_path: Path) -> None:
    now = status_of(write_job(tmp_path))
    assert now.state is RunState.PLANNED
    assert (now.progress.update, now.progress.updates, now.progress.loss) == (0, 60, None)
    assert now.json()["attempts"] == 0


def test_a_finished_job_as_its_observer_saw_it(finished: FinishedJob) -> None:
    now, seen = status_of(finished.job), finished.seen[-1]
    assert now.state is RunState.FINISHED
    assert measured(now.progress) == measured(seen)
    assert len(now.progress.losses) == 60
    assert now.json()["test"][0] == {
        "update": 60, "test_net": 0, "output": "accuracy", "value": 1.0,
    }  # fmt: skip
    assert (now.pid, now.json()["eta_s"], now.json()["ending"]) == (None, None, "finished")


@pytest.mark.parametrize("name", ["interrupted", "growing"])
def test_a_continued_job_as_its_observer_saw_it(
    name: str, runtime: Runtime, tmp_path: Path
) -> None:
    """Two attempts or more, of which the observer saw the later ones, and stages."""
    job = JobDirectory(shutil.copytree(GOLDEN / name, tmp_path / name))
    write_lmdb(job.path / "data")
    before = status_of(job).progress
    seen: list[Progress] = []
    train(job, runtime, Options(engine=planned_jobs.engine), seen.append)
    now = status_of(job).progress
    assert measured(now) == measured(seen[-1])
    assert seen[0].losses  # those of the attempts before are there from the start
    assert seen[0].scores
    lines = list(read_metrics(job.metrics))
    assert now.elapsed_s == max(each.seconds for each in lines)
    assert seen[0].elapsed_s >= before.elapsed_s > 0


def test_numbers_are_shown_as_they_are_written(tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=0.01)
    with MetricsFile(job.metrics) as metrics:
        metrics.append(replace(line(1), learning_rate=0.01, loss=0.3, seconds=0.7))
    shown = status_of(job).json()
    assert (shown["learning_rate"], shown["loss"]) == (0.01, 0.3)
    assert shown["samples_per_s"] == 25.7143
    assert '"learning_rate": 0.01,' in call("status", job.path, "--json").out


def test_running_without_a_process_is_killed(finished: FinishedJob, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    record = finished.job.read_record()
    assert record is not None
    job.write_record(replace(record, state=JobState.RUNNING))
    assert status_of(job).state is RunState.KILLED
    with job.lock():
        now = status_of(job)
        assert (now.state, now.pid) == (RunState.RUNNING, os.getpid())
        assert status_of(job).json()["state"] == "running"
    assert status_of(job).state is RunState.KILLED


def test_looking_never_keeps_a_train_out(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    assert job.supervisor() is None
    with job.lock():
        assert job.supervisor() == os.getpid()
        with pytest.raises(JobBusyError), job.lock():
            pass
        assert job.supervisor() == os.getpid()
    assert job.supervisor() is None
    with job.lock():
        assert job.supervisor() == os.getpid()


def test_a_directory_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no plan\.json"):
        RunFollower(JobDirectory(tmp_path))


def test_the_display_goes_back_when_the_run_does(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with closing(RunFollower(job)) as follower:
        with MetricsFile(job.metrics) as metrics:
            for update in range(1, 31):
                metrics.append(line(update))
        assert follower.status().progress.update == 30
        rewind(job.metrics, 20, tests_again=True)
        back = follower.status().progress
        assert (back.update, len(back.losses), back.samples) == (20, 20, 360)
        assert back.left_s == pytest.approx(40 * 18 / (360 / 10))


def test_metrics_as_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with closing(MetricsFollower(path)) as follower:
        assert follower.read() == (False, [])
        with MetricsFile(path) as metrics:
            metrics.append(line(1))
            metrics.append(line(2))
        text = path.read_text()
        path.write_text(text[:-20])
        assert follower.read() == (False, [line(1)])
        with path.open("a") as file:
            file.write(text[-20:])
        assert follower.read() == (False, [line(2)])
        with path.open("a") as file:
            file.write('{"update": 3\nnull\n[]\n{"update": 4, "loss": 1}\n\x00\x00\n')
        assert follower.read() == (False, [])
        assert follower.broken == 5
        rewind_to_1 = tmp_path / "new"
        rewind_to_1.write_text("".join(text.splitlines(keepends=True)[:2]))
        rewind_to_1.replace(path)
        assert follower.read() == (True, [line(1)])
        assert follower.broken == 0
        path.unlink()
        assert follower.read() == (True, [])
        assert follower.read() == (False, [])


def test_memory_of_this_process() -> None:
    held = bytearray(os.urandom(1 << 20)) * 64
    seen = MemoryMeter(os.getpid()).read(Device.CPU)
    assert seen is not None
    assert len(held) < seen < 100 * len(held)
    assert MemoryMeter(2**22 + 1).read(Device.CPU) is None
    assert MemoryMeter(os.getpid()).read(Device(0)) is None  # it has nothing there


def test_memory_is_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began)
    meter = MemoryMeter(os.getpid())
    first = meter.read(Device.CPU)
    size = 64 << 20
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # pages of its own
    held.write(b"1" * size)
    assert meter.read(Device.CPU) == first
    monkeypatch.setattr(time, "monotonic", lambda: began + 60)
    later = meter.read(Device.CPU)
    assert first is not None
    assert later is not None
    assert later > first + size // 2
    held.close()
