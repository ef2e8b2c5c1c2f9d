"""Caffe's log: complete, in files of a bounded size, and followed from one to the next."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.caffe.inside.worker_log import WorkerLog, change_names
from caffe_batch.engines.caffe.log_files import LogFollower
from caffe_batch.jobs.logs import log_files
from caffe_batch.jobs.metrics import NetTestMetrics, read_metrics
from caffe_batch.runtimes import Runtime
from caffe_batch.training import run
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.planned_jobs import write_job

#: Threads write numbered lines to stderr, as Caffe's do, while the log changes its file.
WRITER = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from worker_log import WorkerLog
log = WorkerLog(sys.argv[2], 2000)
done = threading.Event()
def write(name):
    number = 0
    while not done.is_set():
        os.write(2, b"%d %d\\n" % (name, number))
        number += 1
    os.write(2, b"%d end\\n" % name)
threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
for thread in threads:
    thread.start()
while not os.path.exists(log.path + ".20"):
    log.rotate_if_large()
done.set()
"""


def test_no_line_is_lost_and_the_follower_reads_all(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    follower = LogFollower(log, keep=None)
    folder = str(INSIDE)
    with (
        log.open("ab") as output,
        subprocess.Popen(runtime.command(["-c", WRITER, folder, str(log)]), stderr=output) as child,
    ):
        while child.poll() is None:
            list(follower.read())
    list(follower.read())
    follower.close()
    files = log_files(log)
    assert len(files) == 21
    assert files[-1] == log
    for lines in ("".join(file.read_text() for file in files).splitlines(), follower.tail):
        for name in range(4):
            own = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
            assert own == [*map(str, range(len(own) - 1)), "end"]


def test_a_thread_that_was_writing_as_the_log_moved_on(tmp_path: Path) -> None:
    """Its write has found the old file already, and lands there after the change of names."""
    log = tmp_path / "caffe.log"
    follower = LogFollower(log)
    with log.open("ab", buffering=0) as held:  # as such a write holds it
        held.write(b"one\n")
        go_on(log)
        log.write_text("two\n")
        list(follower.read())
        held.write(b"late, ")
        list(follower.read())
        for number in range(3):
            go_on(log)
            log.write_text(f"three.{number}\n")
        held.write(b"and whole\n")  # before anything of the files after it is read
        list(follower.read())
    assert list(follower.tail) == [
        "one", "two", "late, and whole", "three.0", "three.1", "three.2",
    ]  # fmt: skip
    follower.close()


def go_on(log: Path) -> None:
    """In a new, empty file, as a worker does."""
    log.with_name("caffe.log.new").touch()
    change_names(str(log))


def test_the_names_amid_a_change(tmp_path: Path) -> None:
    """The follower looks between any two steps of two changes in a row."""
    log, new = tmp_path / "caffe.log", tmp_path / "caffe.log.new"
    steps: list[Callable[[], object]] = [
        lambda: new.write_text("two\n"),
        lambda: log.rename(tmp_path / "caffe.log.1"),
        lambda: new.rename(log),
        lambda: new.write_text("three\n"),
        lambda: log.rename(tmp_path / "caffe.log.2"),
        lambda: new.rename(log),
    ]
    for looks in product([False, True], repeat=len(steps)):
        for file in tmp_path.iterdir():
            file.unlink()
        follower = LogFollower(log)
        log.write_text("one\n")
        for step, look in zip(steps, looks, strict=True):
            step()
            if look:
                list(follower.read())
        list(follower.read())
        follower.close()
        assert list(follower.tail) == ["one", "two", "three"], looks


@pytest.mark.parametrize("renamed", [False, True])
def test_a_worker_killed_amid_the_change(renamed: bool, runtime: Runtime, tmp_path: Path) -> None:
    """What it wrote last comes before what the next one writes."""
    job = write_job(tmp_path)
    job.log.write_text("one\n")
    job.log.with_name("caffe.log.new").write_text("two\n")
    if renamed:
        job.log.rename(job.path / "caffe.log.1")
    train(job, runtime)
    older, present = log_files(job.log)
    assert older.read_text() == "one\n"
    assert present.read_text().startswith("two\n")
    assert "Iteration 0 (" in present.read_text()
    job.log.with_name("caffe.log.new").touch()
    train(job, runtime, Options(restart=True))
    assert [file.name for file in job.path.glob("caffe.log*")] == ["caffe.log"]


def test_many_files_are_not_held_open(tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    follower = LogFollower(log)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        log.write_text(f"{number}\n")
        list(follower.read())
        go_on(log)
    assert list(follower.read()) == []
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    follower.close()
    assert list(follower.tail) == [str(number) for number in range(40)]


def test_files_are_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    for name in ("caffe.log", "caffe.log.2", "caffe.log.10", "caffe.log.new", "caffe.log.1.gz"):
        (tmp_path / name).touch()
    assert [file.name for file in log_files(log)] == ["caffe.log.2", "caffe.log.10", "caffe.log"]
    log.unlink()
    assert [file.name for file in log_files(log)] == ["caffe.log.2", "caffe.log.10"]


def test_a_follower_continues_after_somebody_removed_the_log(tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    follower = LogFollower(log)
    log.write_text("one\n")
    list(follower.read())
    log.rename(tmp_path / "elsewhere")
    assert list(follower.read()) == []
    log.write_text("two\n")
    list(follower.read())
    follower.close()
    assert list(follower.tail) == ["one", "two"]


def test_a_small_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "caffe.log"
    log.write_text("")
    WorkerLog(str(log), 2**40).rotate_if_large()
    assert log_files(log) == [log]


def test_a_real_run_with_a_log_in_many_files(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LOG_BYTES", 20_000)
    job = write_job(tmp_path, max_iter=5_000, display=20, test_interval=100)
    train(job, runtime)
    files = log_files(job.log)
    assert len(files) > 4
    text = "".join(file.read_text() for file in files)
    shown = [int(number) for number in re.findall(r"Iteration (\d+) \(", text)]
    assert shown == list(range(0, 5_000, 20))
    tests = [line for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]
    assert [line.update for line in tests[::2]] == list(range(0, 5_001, 100))
    train(job, runtime, Options(restart=True))
    assert "Iteration 4980 (" in "".join(file.read_text() for file in log_files(job.log))
    assert "".join(file.read_text() for file in log_files(job.log)).count("Iteration 0 (") == 1
