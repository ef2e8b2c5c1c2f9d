"""The lock on a job directory, and who is taken for its holder."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from caffe_batch.api import Job
from caffe_batch.errors import InputError
from caffe_batch.jobs import lock
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError, has_open, signal_holder
from caffe_batch.runtimes import Runtime
from tests.command import PROGRAM, call
from tests.holding import LONG, Hold, is_alive, wait_for
from tests.planned_jobs import write_job

SLEEP = "import time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    return write_job(tmp_path)


@contextmanager
def bystander(*descriptors: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has nothing to do with a job, but for what it inherits."""
    with subprocess.Popen(
        [sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, pass_fds=descriptors, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def held_with(job: JobDirectory, pid: int) -> Iterator[int]:
    """The lock, held by somebody who can't be seen from here and whose process id is there."""
    with job.lock() as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)
        yield descriptor


def test_stop_signals_nobody_by_the_number_alone(job: JobDirectory) -> None:
    """As a container's process id names another process outside, and a file anything."""
    with bystander() as other, held_with(job, other.pid):
        assert job.supervisor() == other.pid
        for _ in range(2):
            done = call("stop", job.path)
            assert done.code == 2
            assert f"process {other.pid}, which the lock names, is not the training" in done.err
        with pytest.raises(InputError, match="Nothing was signaled"):
            Job(job.path).stop()
        assert is_alive(other.pid)


@pytest.mark.parametrize("content", ["1", "0", "-1", "99999999", "x", "12 34", ""])
def test_stop_with_any_content_of_the_lock(job: JobDirectory, content: str) -> None:
    """The parent, whose process id init's stands for, is not signalled either."""
    with job.lock() as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)
        done = call("stop", job.path)
        assert (done.code, "Traceback" in done.err) == (2, False)


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_file_holds_nothing(
    job: JobDirectory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job from somebody else: nobody waits for the other end of a pipe."""
    job.lock_file.parent.mkdir(exist_ok=True)
    job.lock_file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(job.lock_file)
    elif kind == "folder":
        job.lock_file.mkdir()
    else:
        monkeypatch.chdir(job.lock_file.parent)  # a socket's address is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(job.lock_file.name)
    assert job.supervisor() is None
    assert call("status", job.path).code == 0
    done = call("train", job.path, "--cpu")
    assert (done.code, "is no regular file, so no lock" in done.err) == (2, True), done.err


def test_only_a_process_with_the_lock_file_is_signalled(job: JobDirectory) -> None:
    with job.lock() as descriptor, bystander() as other, bystander(descriptor) as holder:
        assert has_open(other.pid, job.lock_file) is False
        assert has_open(holder.pid, job.lock_file) is True
        assert not signal_holder(other.pid, job.lock_file, signal.SIGKILL)
        assert signal_holder(holder.pid, job.lock_file, signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
        assert not signal_holder(holder.pid, job.lock_file, signal.SIGKILL)
        assert other.poll() is None


def test_a_train_in_another_pid_namespace(job: JobDirectory, runtime: Runtime) -> None:
    """As in a container: there it is process 1, and outside that is init."""
    job.solver.write_text(job.solver.read_text().replace("max_iter: 60", f"max_iter: {LONG}"))
    hold = Hold(job, 5)
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no namespace can be made here")
    with subprocess.Popen([*inside, PROGRAM, "train", str(job.path), "-q"]) as process:
        hold.wait()
        assert job.supervisor() == 1
        done = call("stop", job.path)
        assert done.code == 2
        assert "process 1, which the lock names, is not the training" in done.err
        assert call("status", job.path).out.startswith("running")
        process.kill()
    wait_for(lambda: job.supervisor() is None)


def test_others_cannot_hold_it(job: JobDirectory) -> None:
    job.worker_folder.mkdir()
    job.lock_file.touch(mode=0o644)  # as earlier versions made it
    with job.lock():
        assert stat.S_IMODE(job.lock_file.stat().st_mode) == 0o600


def test_others_see_that_it_is_held(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not open the lock reads the kernel's list."""

    def refused(*_: object) -> int:
        raise PermissionError

    with job.lock(), monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert job.supervisor() == os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert job.supervisor() is None
    with job.lock_file.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert job.supervisor() == os.getpid()


def waiting(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Calls ``act`` instead of each wait for the lock, with the number of the wait."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        act(len(waits))

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


@pytest.mark.parametrize(
    "content", ["", "99999999\n", f"{os.getpid()}\n"], ids=["none", "dead", "own"]
)
def test_a_reader_is_waited_for(
    job: JobDirectory, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """It asks who holds the lock, and doesn't get on; what a ``train`` wrote earlier is there."""
    with job.lock():
        pass
    job.lock_file.write_text(content)
    reader = os.open(job.lock_file, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    released = False

    def act(wait: int) -> None:
        nonlocal released
        assert job.supervisor() is None  # nor does another reader take it for a train
        if wait == 20:
            os.close(reader)
            released = True

    waiting(monkeypatch, act)
    with job.lock():
        assert released


def test_a_reader_that_was_stopped(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ORPHAN_WAIT_S", 0.0)
    with job.lock():
        pass
    with job.lock_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(JobBusyError, match="a `caffe-batch status` or another reader has held"):
            job.lock().__enter__()


def test_a_moment_is_waited_for(job: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``status`` settles a restart, and ``train --detach`` looks whether it may begin."""
    moment = job.lock(briefly=True)
    moment.__enter__()
    assert job.supervisor() is None
    assert call("status", job.path).out.startswith("planned")
    assert "nothing is running here" in call("stop", job.path).err

    def act(wait: int) -> None:
        if wait == 20:
            moment.__exit__(None, None, None)

    waiting(monkeypatch, act)
    with JobDirectory(job.path).lock():
        assert job.supervisor() == os.getpid()
    assert job.lock_file.read_text() == f"{os.getpid()}\n"


def test_a_train_that_has_not_written_its_id(
    job: JobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job.lock():
        pass
    with job.lock_file.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        assert job.supervisor() == 0

        def act(wait: int) -> None:
            os.pwrite(file.fileno(), f"{os.getpid()}\n".encode(), 0)

        waiting(monkeypatch, act)
        with pytest.raises(JobBusyError, match="another `caffe-batch train` runs here"):
            job.lock().__enter__()
