"""SIGKILL of the worker, of the supervisor, of both, with real Caffe; and the lock on the job."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from caffe_batch.engines.caffe.snapshots import CORRUPT, list_snapshots
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.jobs import lock
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.both_engines import TRAIN
from tests.both_engines import runtime as runtime
from tests.holding import PATIENCE_S, Hold, WhenHeld, wait_for
from tests.planned_jobs import FinishedJob, write_job

#: Two updates see all 70 records once, so a run that continues from an even update sees the
#: same samples as one that was never stopped.
WHOLE = {"batch_size": 7, "iter_size": 5, "lr_policy": '"fixed"'}

#: As many updates as a run may have for the loss of each to be recorded; none of them gets there.
RECORDED = 9_000


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


def start(job: JobDirectory) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "caffe_batch", "train", str(job.path), "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def learned(state: Path) -> tuple[list[list[float]], list[list[float]]]:
    net, solver = caffe_pb2.NetParameter(), caffe_pb2.SolverState()
    net.ParseFromString(state.with_suffix(".caffemodel").read_bytes())
    solver.ParseFromString(state.read_bytes())
    weights = [list(blob.data) for layer in net.layer for blob in layer.blobs]
    return weights, [list(blob.data) for blob in solver.history]


def check_complete(job: JobDirectory, updates: int, without: range = range(0)) -> None:
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert {line.update for line in lines} == set(range(1, updates + 1)) - {*without}
    assert len(lines) == len({line.update for line in lines})
    assert record_of(job).state is JobState.FINISHED


def test_killed_in_each_stage_the_weights_are_the_same(runtime: Runtime, tmp_path: Path) -> None:
    """A stage change is a restart like any other: no update is lost, none is done twice."""
    settings: dict[str, object] = {
        **WHOLE, "max_iter": 60, "snapshot": 20, "test_interval": 10_000,
        "later": [{"max_iter": 120, "iter_size": 10}, {"max_iter": 180, "iter_size": 20}],
    }  # fmt: skip
    (tmp_path / "straight").mkdir()
    straight = write_job(tmp_path / "straight", **settings)  # type: ignore[arg-type]
    train(straight, runtime)
    (tmp_path / "killed").mkdir()
    job = write_job(tmp_path / "killed", **settings)  # type: ignore[arg-type]
    holds = [
        Hold(job, 25, iter_size=5), Hold(job, 5, iter_size=10, stage=2),
        Hold(job, 5, iter_size=20, stage=3),
    ]  # fmt: skip
    for hold in holds:
        with pytest.raises(TrainingError, match="killed by SIGKILL"):
            train(job, runtime, observer=WhenHeld(hold, lambda: kill_worker(job)))
    assert train(job, runtime).update == 180
    check_complete(job, 180)
    assert [(a.stage, a.first_update) for a in record_of(job).attempts] == [
        (1, 0), (1, 20), (2, 60), (2, 60), (3, 120), (3, 120),
    ]  # fmt: skip
    ends = [list_snapshots(each.snapshots)[-1].state for each in (straight, job)]
    assert learned(ends[0]) == learned(ends[1])


def kill_worker(job: JobDirectory) -> None:
    os.kill(record_of(job).attempts[-1].pid, signal.SIGKILL)


def test_killed_between_two_stages(runtime: Runtime, tmp_path: Path) -> None:
    """The first has said that it is done, and the second has no worker yet."""
    settings: dict[str, object] = {
        **WHOLE, "batch_size": 6, "max_iter": 20, "test_interval": 10_000,
        "later": [{"max_iter": 40, "iter_size": 9}],
    }  # fmt: skip
    jobs = []
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        jobs.append(write_job(tmp_path / name, **settings))  # type: ignore[arg-type]
    straight, job = jobs
    train(straight, runtime)
    die = (
        "import os; from caffe_batch.training import run\n"
        "run.Run._obstacle = lambda *_: os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", die + TRAIN, str(job.path), runtime.name]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (attempt,) = record_of(job).attempts
    assert (attempt.stage, attempt.ending, attempt.last_update) == (1, "finished", 20)
    assert train(job, runtime).update == 40
    check_complete(job, 40)
    assert [(each.stage, each.first_update) for each in record_of(job).attempts] == [
        (1, 0),
        (2, 20),
    ]
    ends = [list_snapshots(each.snapshots)[-1].state for each in jobs]
    assert learned(ends[0]) == learned(ends[1])


@pytest.mark.parametrize("victims", ["supervisor", "both"])
def test_train_again_continues(victims: str, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, **WHOLE,  # type: ignore[arg-type]
        max_iter=RECORDED, snapshot=20, test_interval=10_000,
    )  # fmt: skip
    hold = Hold(job, 70, iter_size=5)
    with start(job) as supervisor:
        hold.wait()
        wait_for(lambda: recorded(job) == [20, 40, 60])
        worker = record_of(job).attempts[-1].pid
        supervisor.kill()
        if victims == "both":
            os.killpg(worker, signal.SIGKILL)
    job.solver.write_text(job.solver.read_text().replace(str(RECORDED), "110"))
    with start(job) as again:  # at once: it waits for the worker that was left behind
        hold.release()
        assert again.wait(PATIENCE_S) == 0
    last = record_of(job).attempts[-1]
    assert last.first_update == (60 if victims == "both" else 70)
    check_complete(job, 110, without=told_missing(last.choices))


def recorded(job: JobDirectory) -> list[int]:
    """The updates of the snapshots that the supervisor has taken note of."""
    return [each.update for each in list_snapshots(job.snapshots) if each.record.exists()]


def told_missing(choices: Sequence[str]) -> range:
    """The updates whose losses a run says that it doesn't have."""
    found = [re.search(r"lacks the losses .* updates (\d+) to (\d+):", each) for each in choices]
    bounds = [(int(match[1]), int(match[2])) for match in found if match]
    assert len(bounds) < 2
    return range(bounds[0][0], bounds[0][1] + 1) if bounds else range(0)


def test_updates_that_nobody_has_written_down_are_reported(tmp_path: Path) -> None:
    """The worker continues to a snapshot; what it reports to a dead supervisor is lost."""
    job = write_job(
        tmp_path, **WHOLE,  # type: ignore[arg-type]
        max_iter=RECORDED, snapshot=20, test_interval=10_000,
    )  # fmt: skip
    holds = [Hold(job, update, iter_size=5) for update in (50, 90)]
    with start(job) as supervisor:
        holds[0].wait()
        wait_for(lambda: recorded(job) == [20, 40])
        supervisor.send_signal(signal.SIGSTOP)
        holds[0].release()
        holds[1].wait()
        supervisor.kill()
    holds[1].release()
    known = max(line.update for line in read_metrics(job.metrics))
    wait_for(lambda: job.supervisor() is None)  # nor does its worker hold the lock
    assert [each.update for each in list_snapshots(job.snapshots)] == [20, 40, 60, 80, 90]
    job.solver.write_text(job.solver.read_text().replace(str(RECORDED), "110"))
    with start(job) as again:
        assert again.wait(PATIENCE_S) == 0
    last = record_of(job).attempts[-1]
    assert last.first_update == 90
    missing = told_missing(last.choices)
    assert missing == range(known + 1, 91)
    assert known <= 50
    check_complete(job, 110, without=missing)
    job.solver.write_text(job.solver.read_text().replace("110", "130"))
    with start(job) as once_more:
        assert once_more.wait(PATIENCE_S) == 0
    assert not told_missing(record_of(job).attempts[-1].choices)  # once is enough


def test_a_snapshot_that_the_kill_cut_short(finished: FinishedJob, tmp_path: Path) -> None:
    job = JobDirectory(shutil_copy(finished.job.path, tmp_path / "job"))
    newest = list_snapshots(job.snapshots)[-1]
    newest.record.unlink()
    newest.state.write_bytes(newest.state.read_bytes()[:50])
    text = job.solver.read_text().replace("max_iter: 60", "max_iter: 70")
    job.solver.write_text(text.replace(str(finished.job.path), str(job.path)))
    with start(job) as again:
        assert again.wait(PATIENCE_S) == 0
    last = record_of(job).attempts[-1]
    assert (last.first_update, last.last_update) == (50, 70)
    assert last.choices[0].startswith(
        "The snapshot of update 60 is not whole (tiny_iter_60.solverstate is cut off"
    )
    assert (job.snapshots / f"tiny_iter_60.caffemodel{CORRUPT}").exists()
    check_complete(job, 70)


def shutil_copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("solver.prototxt", "net.prototxt", "plan.json", "job.json", "metrics.jsonl"):
        (target / name).write_bytes((source / name).read_bytes())
    (target / "snapshots").mkdir()
    for file in (source / "snapshots").iterdir():
        (target / "snapshots" / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.both
def test_snapshots_are_kept_by_count_and_age(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, snapshot=4)
    train(job, runtime, Options(keep_last=2, keep_every=20))
    assert [each.update for each in list_snapshots(job.snapshots)] == [4, 20, 40, 56, 60]
    left = {path for each in list_snapshots(job.snapshots) for path in each.files}
    assert {*job.snapshots.iterdir()} == {path for path in left if path.exists()}


def take(job: JobDirectory) -> None:
    with job.lock():
        pass


def test_a_living_supervisor_keeps_the_lock(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with job.lock(), pytest.raises(JobBusyError, match="another `caffe-batch train` runs here"):
        take(job)
    take(job)  # it was given back


def test_a_worker_that_was_left_behind_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path)
    take(job)
    with subprocess.Popen(["true"]) as gone:
        pass
    job.lock_file.write_text(str(gone.pid))  # its supervisor, which is dead
    with job.lock_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        left = subprocess.Popen(["sleep", "infinity"], pass_fds=[file.fileno()])
    waits: list[float] = []

    def end(seconds: float) -> None:  # while it waits
        waits.append(seconds)
        left.kill()
        left.wait()

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=end, monotonic=time.monotonic))
    with job.lock():
        assert waits
    monkeypatch.undo()
    monkeypatch.setattr(lock, "ORPHAN_WAIT_S", 0.3)
    job.lock_file.write_text(str(gone.pid))
    with job.lock_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JobBusyError, match="still held after 0 s, by the worker of"):
            take(job)


def test_a_directory_without_a_plan_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no plan\.json"):
        take(JobDirectory(tmp_path))
    assert not list(tmp_path.iterdir())
