"""SIGKILL by the kernel for memory, and by others: with real control groups and real kills."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.kernel_kills import KillCounter, kill_counter
from caffe_batch.runtimes.machine import resident_bytes
from caffe_batch.training import kill_watch
from caffe_batch.training.kill_watch import KillWatch
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.holding import LONG, Hold, WhenHeld
from tests.planned_jobs import WIDE, attempts_of, write_job, write_lmdb

MIB = 2**20
KILLED = Ending(EndReason.KILLED, "killed by SIGKILL", -9)


@dataclass(frozen=True)
class Grouped(Runtime):
    """A runtime in a control group."""

    inner: Runtime
    group: Path

    def command(self, args: Sequence[str]) -> list[str]:
        return in_group(self.group, self.inner.command(args))

    def environment(self) -> dict[str, str]:
        return self.inner.environment()


def in_group(group: Path, command: Sequence[str]) -> list[str]:
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]


def memory_groups() -> Path:
    """The first control group, which has those that limit memory."""
    root = Path("/sys/fs/cgroup")
    return root / "memory" if (root / "memory").is_dir() else root


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 650 MiB; the test is skipped where none can be made."""
    folder = memory_groups() / f"caffe-batch-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        old = folder / "memory.limit_in_bytes"
        limit = old if old.exists() else folder / "memory.max"
        if not limit.exists():
            pytest.skip("control groups have no memory limit here")
        limit.write_text(str(650 * MIB))
        yield folder
    finally:
        folder.rmdir()


def kill_another(group: Path) -> None:
    """Let the kernel kill a process for memory."""
    fill = ["python3", "-c", "import sys; b'x' * 2**30"]
    assert subprocess.run(in_group(group, fill)).returncode == -signal.SIGKILL


def wide_job(folder: Path) -> JobDirectory:
    return write_job(
        folder, net=WIDE.format(data=write_lmdb(folder / "data")), max_iter=1, batch_size=60,
        iter_size=1, test_iter=None, test_interval=0,
    )  # fmt: skip


def test_killed_by_the_kernel_for_memory(runtime: Runtime, group: Path, tmp_path: Path) -> None:
    job = wide_job(tmp_path)
    outcome = train(job, Grouped("grouped", runtime, group))
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 1)
    *failed, last = attempts_of(job)
    assert failed
    assert {(attempt.ending, attempt.detail) for attempt in failed} == {
        ("out of host memory", "killed by the kernel for memory")
    }
    assert (last.ending, last.first_update) == ("finished", 0)
    assert last.seen_bytes is not None
    assert last.seen_bytes < 650 * MIB


def test_killed_by_somebody_while_the_kernel_kills_another(
    runtime: Runtime, group: Path, tmp_path: Path
) -> None:
    """The split stays: a smaller one would change the last bits of the weights."""
    own = group.with_name(f"{group.name}-own")
    own.mkdir()
    job = write_job(tmp_path, max_iter=LONG)

    def kill() -> None:
        kill_another(group)
        os.kill(attempts_of(job)[-1].pid, signal.SIGKILL)

    try:
        with pytest.raises(TrainingError, match="killed by SIGKILL"):
            train(job, Grouped("grouped", runtime, own), observer=WhenHeld(Hold(job, 20), kill))
    finally:
        own.rmdir()
    (attempt,) = attempts_of(job)
    assert (attempt.ending, attempt.detail) == ("killed", "killed by SIGKILL")
    assert job.read_plan().batch_size == 6


def test_of_the_whole_machine_a_worker_with_most_of_the_free_memory_is_taken(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "infinity"]) as child:
        (memory_groups() / "cgroup.procs").write_text(str(child.pid))
        watch = KillWatch(child.pid)
        resident = resident_bytes(child.pid)
        kill_another(group)
        child.kill()
    assert resident
    ending = watch.judge(KILLED)  # it had some MiB, and the machine has more than that
    assert ending.reason is EndReason.KILLED
    assert ending.detail == (
        "killed by SIGKILL; at about that time the kernel killed a process for memory, perhaps "
        "another one"
    )
    monkeypatch.setattr(kill_watch, "free_host_bytes", lambda: resident * 2)
    assert watch.judge(KILLED).reason is EndReason.HOST_MEMORY


def test_a_kill_long_before_is_another_one(group: Path) -> None:
    with subprocess.Popen(in_group(group, ["sleep", "infinity"])) as child:
        watch = KillWatch(child.pid)
        while kill_counter(child.pid).file.parent != group:
            watch.look()
        watch.look()
        kill_another(group)
        assert watch.judge(KILLED).reason is EndReason.HOST_MEMORY
        for _ in range(50):
            watch.look()
        assert watch.judge(KILLED) == KILLED
        crash = Ending(EndReason.CRASHED, "ended by SIGSEGV", -11)
        kill_another(group)
        assert watch.judge(crash) == crash
        child.kill()


def test_the_counter_of_a_group_counts_its_own(group: Path) -> None:
    with subprocess.Popen(in_group(group, ["sleep", "infinity"])) as child:
        while kill_counter(child.pid).file.parent != group:
            pass
        counter, machine = kill_counter(child.pid), KillCounter(Path("/proc/vmstat"), True)
        before, all_before = counter.read(), machine.read()
        kill_another(group)
        assert before == 0
        assert counter.read() == 1
        assert all_before is not None
        assert (machine.read() or 0) > all_before
        child.kill()
    assert not counter.whole_machine
    assert kill_counter(child.pid) == machine  # it is gone
    assert KillCounter(group / "nothing").read() is None
    assert KillCounter(Path("/proc/meminfo")).read() is None
