"""``--restart``: the run before is lost only to a new one that stands on its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch.api import Job
from caffe_batch.device import Device
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.previous import PreviousRun
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.training.following import RunState
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.command import PROGRAM, call, spawn
from tests.holding import LONG, Hold, WhenHeld, signal_self, wait_for
from tests.planned_jobs import attempts_of, write_job

RESTART = Options(restart=True)


def tree(folder: Path) -> dict[str, bytes]:
    """All files but those of .worker and .failed, which a restart may leave."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in (".worker", ".failed")
    }


@pytest.fixture
def finished(runtime: Runtime, tmp_path: Path) -> JobDirectory:
    """A job that has finished."""
    job = write_job(tmp_path, max_iter=40, snapshot=20)
    assert train(job, runtime).update == 40
    job.loss_plot.write_bytes(b"a picture")
    job.log.with_name("caffe.log.1").write_bytes(b"older lines")
    return job


def longer(job: JobDirectory, updates: int = LONG) -> None:
    """More updates to do, for a restart that is to be caught on its way."""
    text = job.solver.read_text()
    job.solver.write_text(text.replace("max_iter: 40", f"max_iter: {updates}"))


def broken_weights(folder: Path, job: JobDirectory) -> Iterator[tuple[str, Path]]:
    whole = job.snapshots / "tiny_iter_40.caffemodel"
    for name, content in (
        ("empty.caffemodel", b""),
        ("cut.caffemodel", whole.read_bytes()[:-7]),
        ("state.caffemodel", whole.with_suffix(".solverstate").read_bytes()),
        ("wider.caffemodel", whole.read_bytes().replace(b"ip1", b"ipX").replace(b"ip2", b"ipY")),
    ):
        path = folder / name
        path.write_bytes(content)
        yield "--weights", path
    yield "--weights", folder / "typo.caffemodel"
    yield "--snapshot", folder / "typo_iter_20.solverstate"
    yield "--snapshot", whole
    yield "--snapshot", folder / "empty.caffemodel"


def test_what_can_be_checked_first_changes_nothing(finished: JobDirectory, tmp_path: Path) -> None:
    before = tree(finished.path)
    for option, path in broken_weights(tmp_path, finished):
        done = call("train", finished.path, "--restart", option, path)
        assert done.code == 2, (option, path, done.err)
        assert path.name in done.err
        assert tree(finished.path) == before
    done = call("train", finished.path, "--restart", "--weights", "a", "--snapshot", "b")
    assert done.code == 2
    assert tree(finished.path) == before
    assert not finished.previous.failed.exists()


def test_a_refused_device_leaves_the_run_before(finished: JobDirectory) -> None:
    before = tree(finished.path)
    done = call("train", finished.path, "--restart", "--gpu", 3)
    assert done.code == 2
    assert done.err.startswith("caffe-batch: training on GPU 3 is not possible: ")
    assert done.err.endswith("\n--cpu trains on the CPU.\n")
    assert tree(finished.path) == before
    assert not finished.previous.failed.exists()
    done = call("train", finished.path)
    assert done.out.startswith("Finished already: 40 of 40 updates")
    assert tree(finished.path) == before


@pytest.mark.both
def test_a_run_that_dies_before_its_first_snapshot(
    runtime: Runtime, finished: JobDirectory
) -> None:
    """Its log is kept where the message says."""
    hold = Hold(finished, 10)
    before = tree(finished.path)

    def kill_worker() -> None:
        assert finished.previous.is_kept
        os.kill(attempts_of(finished)[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="of 40: killed: killed by SIGKILL") as failure:
        train(finished, runtime, RESTART, WhenHeld(hold, kill_worker))
    assert tree(finished.path) == before
    log = finished.previous.failed / "caffe.log"
    assert f"The last lines of {log}:" in failure.value.message
    assert b"Iteration 0" in log.read_bytes()
    assert "is back" in failure.value.notes[-1]
    assert failure.value.hint is not None
    assert failure.value.hint.endswith("Without --restart, the previous run continues.")
    assert "newest snapshot" not in failure.value.hint
    assert not train(finished, runtime).ran


def test_killed_without_a_chance(finished: JobDirectory) -> None:
    """A reader finds the run before again; so does the next train."""
    hold = Hold(finished, 10)
    before = tree(finished.path)
    command = [sys.executable, "-m", "caffe_batch", "train", str(finished.path), "--restart"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as supervisor:
        hold.wait()
        assert Job(finished.path).status().state is RunState.RUNNING
        assert tree(finished.path) != before
        supervisor.kill()
        os.kill(attempts_of(finished)[-1].pid, signal.SIGKILL)
    wait_for(lambda: finished.supervisor() is None)
    status = Job(finished.path).status()
    assert (status.state, status.progress.update) == (RunState.FINISHED, 40)
    assert tree(finished.path) == before


def test_in_the_background(finished: JobDirectory) -> None:
    """The caller returns when the new run has begun, and its attempts count from 1 again."""
    hold = Hold(finished, 10)
    done = spawn(PROGRAM, "train", finished.path, "--restart", "--detach")
    assert done.code == 0, done.err
    assert done.out.startswith("Training in the background")
    hold.wait()
    assert len(attempts_of(finished)) == 1
    assert finished.previous.is_kept
    hold.release()
    wait_for(lambda: finished.supervisor() is None)
    record = Job(finished.path).record
    assert record is not None
    assert (record.state, record.updates_done) == (JobState.FINISHED, 40)
    assert not any(folder.exists() for folder in finished.previous.folders)


def test_the_first_good_snapshot_takes_its_place(runtime: Runtime, finished: JobDirectory) -> None:
    longer(finished)
    early, middle, late = (Hold(finished, updates) for updates in (15, 25, 30))
    kept: list[bool] = []

    def watch(progress: Progress) -> None:
        if early.reached and not kept:
            kept.append(finished.previous.is_kept)
            early.release()
        if middle.reached:  # after it, the worker tells of an update after the snapshot
            middle.release()
        if late.reached and not finished.previous.folder.exists():
            with suppress(ProcessLookupError):  # killed already
                os.kill(attempts_of(finished)[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match=f"of {LONG}: killed"):
        train(finished, runtime, RESTART, watch)
    assert kept == [True]
    assert [each.update for each in list_snapshots(finished.snapshots)] == [20]
    assert not any(folder.exists() for folder in finished.previous.folders)
    record = finished.read_record()
    assert record is not None
    assert record.state is JobState.FAILED
    assert record.updates == LONG


def test_ctrl_c_leaves_a_run_that_continues(runtime: Runtime, finished: JobDirectory) -> None:
    longer(finished)
    hold = Hold(finished, 10)
    outcome = train(finished, runtime, RESTART, WhenHeld(hold, signal_self(signal.SIGINT)))
    assert outcome.state is JobState.INTERRUPTED
    assert outcome.notes == ()
    assert [each.update for each in list_snapshots(finished.snapshots)] == [outcome.update]
    assert not any(folder.exists() for folder in finished.previous.folders)


def test_a_restart_that_finishes(runtime: Runtime, finished: JobDirectory) -> None:
    assert train(finished, runtime, RESTART).update == 40
    assert len(attempts_of(finished)) == 1
    assert not any(folder.exists() for folder in finished.previous.folders)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_restart_from_files_of_the_run_before(
    snapshot: bool, fails: bool, runtime: Runtime, finished: JobDirectory
) -> None:
    """They are set aside with it, and the new run finds them."""
    before = tree(finished.path)
    (first, _) = list_snapshots(finished.snapshots)
    files = Options(snapshot=first.state) if snapshot else Options(weights=(first.weights,))
    options = replace(files, restart=True, device=Device(3) if fails else None)
    if fails:
        with pytest.raises(InputError, match="GPU 3"):
            train(finished, runtime, options)
        assert tree(finished.path) == before
        return
    assert train(finished, runtime, options).update == 40
    (attempt,) = attempts_of(finished)
    assert attempt.first_update == (20 if snapshot else 0)
    told = "from update 20" if snapshot else "Starting with the weights of"
    assert any(told in choice for choice in attempt.choices)
    assert not any(folder.exists() for folder in finished.previous.folders)


def test_weights_beside_a_run_that_did_nothing(runtime: Runtime, finished: JobDirectory) -> None:
    """They are all that is there."""
    (first, last) = list_snapshots(finished.snapshots)
    for path in (*first.files, last.state, last.record, finished.record, finished.metrics):
        path.unlink(missing_ok=True)
    options = Options(restart=True, weights=(last.weights,))
    with pytest.raises(InputError, match="GPU 3"):
        train(finished, runtime, replace(options, device=Device(3)))
    assert last.weights.is_file()
    assert train(finished, runtime, options).update == 40


def test_a_run_that_did_nothing_is_not_kept(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=40)
    data = tmp_path / "data"
    data.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(TrainingError, match="failed check: ") as failure:
            train(job, runtime, RESTART)
        assert failure.value.hint == f"Missing: {data} (layer 'data')."
    assert len(attempts_of(job)) == 1
    assert not any(folder.exists() for folder in job.previous.folders)
    (tmp_path / "away").rename(data)
    assert train(job, runtime).update == 40


class DiedError(BaseException):
    """The process dies before the next change of the file system."""


def dying_after(changes: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let the process die before a given change; returns whether it came so far."""
    left = [changes]

    def counted(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def change(*args: object, **keywords: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise DiedError
            return original(*args, **keywords)

        monkeypatch.setattr(owner, name, change)

    for name in ("rename", "replace", "mkdir", "unlink"):
        counted(Path, name)  # which doesn't look for os.rename when it is called before Python 3.11
    for name in ("rmdir", "unlink"):
        counted(os, name)  # rmtree's
    return lambda: left[0] < 0


OLD = {"job.json": "old", "caffe.log": "old", "snapshots/a": "old", "solver.prototxt": "recipe"}
NEW = {"job.json": "new", "metrics.jsonl": "new", "snapshots/b": "new"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in tree(folder).items()}


def previous_run(folder: Path) -> PreviousRun:
    names = ("job.json", "caffe.log", "metrics.jsonl", "snapshots")
    return PreviousRun(folder, lambda: [folder / n for n in names if (folder / n).exists()])


@pytest.mark.parametrize("step", ["set aside", "put back", "forget"])
def test_a_death_at_any_moment_leaves_one_whole_run(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died, changes = True, 0
    while died:
        folder = tmp_path / str(changes)
        folder.mkdir()
        write(folder, OLD)
        previous = previous_run(folder)
        if step != "set aside":
            previous.set_aside()
            write(folder, NEW)
            previous.save([folder / "solver.prototxt"])
            (folder / "solver.prototxt").write_text("changed by the new run")
        with monkeypatch.context() as patch:
            has_died = dying_after(changes, patch)
            with suppress(DiedError):
                {
                    "set aside": previous.set_aside,
                    "put back": previous.put_back,
                    "forget": previous.forget,
                }[step]()
            died = has_died()
        again = previous_run(folder)  # what the next process does
        again.finish_moving()
        if again.is_kept and step != "forget":
            again.put_back()
        again.forget()
        if step == "forget":
            assert read(folder) == {**NEW, "solver.prototxt": "changed by the new run"}
        else:
            assert read(folder) == OLD
        changes += 1
    assert changes > 3
