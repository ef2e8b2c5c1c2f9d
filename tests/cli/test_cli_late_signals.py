"""Signals that arrive when Caffe has ended, before the program has said how."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from caffe_batch.cli.late_signals import LateSignals
from caffe_batch.jobs.record import JobState
from tests.command import PROGRAM
from tests.experiments.measuring import INPUT, LOSS, SOLVER, inner_product
from tests.holding import PATIENCE_S, pending, wait_for
from tests.planned_jobs import NET, write_job, write_lmdb
from tests.small_memory import BATCH, read_model, tight, write_recipe

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)

#: Waits where it is called: says so in the file "here", and continues when "go_on" is there.
HOLD = """
import os, time

folder = os.path.dirname(__file__)

def hold():
    open(os.path.join(folder, "here"), "w").close()
    while not os.path.exists(os.path.join(folder, "go_on")):
        time.sleep(0.01)
"""

#: Takes matplotlib's place: the program is held where it draws.
DRAWS = (
    HOLD
    + """
hold()
raise ImportError("none")
"""
)

#: Python imports it before the program: the program is held before it writes what begins so.
WRITES = (
    HOLD
    + """
import io, sys

class Held(io.TextIOWrapper):
    def write(self, text):
        if text.startswith("{begins}"):
            hold()
        return super().write(text)

setattr(sys, "{stream}", Held(sys.{stream}.buffer, encoding="utf-8", line_buffering=True))
"""
)


class Program:
    """The program, held by a module of its own until :meth:`say` is called."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._folder, self._process = folder, process

    def receive(self, *numbers: signal.Signals) -> None:
        """Send it signals, each when it has taken the one before."""
        for number in numbers:
            self._process.send_signal(number)
            wait_for(lambda: not pending(self._process.pid, number))  # noqa: B023

    def say(self) -> tuple[int, str, str]:
        """Let it go on to its end: its exit code, and what it has written."""
        (self._folder / "go_on").touch()
        said, errors = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, said, errors


@contextmanager
def held(folder: Path, module: str, content: str, *args: object) -> Iterator[Program]:
    """Run the program until its module holds it."""
    modules = folder / "modules"
    modules.mkdir()
    (modules / module).write_text(content)
    with subprocess.Popen(
        [PROGRAM, *map(str, args)], cwd=folder, env={**os.environ, "PYTHONPATH": str(modules)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            wait_for(lambda: (modules / "here").exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield Program(modules, process)
        finally:
            process.kill()


@pytest.mark.usefixtures("runtime")
def test_a_training_that_draws(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    with held(tmp_path, "matplotlib.py", DRAWS, "train", job.path, "-q") as program:
        program.receive(*SIGNALS)
        code, said, errors = program.say()
    assert code == 0, errors
    assert said.startswith("Finished: 5 of 5 updates.\n")


@pytest.mark.usefixtures("runtime")
def test_a_second_ctrl_c_ends_the_program(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    with held(tmp_path, "matplotlib.py", DRAWS, "train", job.path, "-q") as program:
        program.receive(signal.SIGINT, signal.SIGINT)
        code, said, errors = program.say()
    assert (code, said) == (130, "")
    assert errors.endswith("Interrupted.\n")
    record = job.read_record()
    assert record is not None
    assert record.state is JobState.FINISHED


@dataclass(frozen=True)
class Case:
    """A command, and what it says at last.

    Attributes:
        make: Writes its files into a folder; returns its arguments.
        stream: Where the message goes.
        code: Its exit code.
        says: How the message begins.
    """

    make: Callable[[Path], tuple[object, ...]]
    stream: str
    code: int
    says: str


def trained(folder: Path) -> tuple[object, ...]:
    return ("train", write_job(folder, max_iter=5).path, "-q")


def diverged(folder: Path) -> tuple[object, ...]:
    return (*trained(folder), "--max-loss", "1e-9")


def refused(folder: Path) -> tuple[object, ...]:
    """Caffe finds the database gone, before its first update."""
    command = trained(folder)
    for file in (folder / "data").iterdir():
        file.unlink()
    return (*command, "--no-check-data")


def compared(folder: Path) -> tuple[object, ...]:
    write_recipe(folder)
    budget = tight(read_model(folder / "solver.prototxt"))
    return ("compare", "solver.prototxt", "--gpu-memory", f"{budget.budget_bytes}B",
            "--reserve", "0", "--effective-batch", BATCH, "--out", "run",
            "--strategy", "small", "--seeds", "1", "--cpu")  # fmt: skip


def verified(folder: Path) -> tuple[object, ...]:
    (folder / "net.prototxt").write_text(INPUT + inner_product() + LOSS)
    (folder / "solver.prototxt").write_text(f'{SOLVER} net: "net.prototxt"')
    return ("verify", "solver.prototxt")


def noise(folder: Path) -> tuple[object, ...]:
    net = NET.format(data=write_lmdb(folder / "data"), batch_size=6, width=8)
    (folder / "net.prototxt").write_text(net)
    return ("noise", "net.prototxt", "--cpu")


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    "case",
    [
        Case(trained, "stdout", 0, "Finished: 5 of 5 updates."),
        Case(diverged, "stderr", 4, "caffe-batch: Caffe stopped at update "),
        Case(refused, "stderr", 4, "caffe-batch: Caffe stopped at update 0 of 5: "),
        Case(compared, "stdout", 0, "The last test of 1 training"),
        Case(verified, "stdout", 0, "The same training: "),
        Case(noise, "stdout", 0, "noise scale"),
    ],
    ids=lambda case: case.make.__name__,
)
def test_the_message_comes(tmp_path: Path, case: Case) -> None:
    writes = WRITES.replace("{stream}", case.stream).replace("{begins}", case.says)
    with held(tmp_path, "sitecustomize.py", writes, *case.make(tmp_path)) as program:
        program.receive(*SIGNALS)
        code, said, errors = program.say()
    assert code == case.code, errors
    assert case.says in (said if case.stream == "stdout" else errors)


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that the program's own handler for SIGUSR1 takes."""
    numbers: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    before = signal.signal(signal.SIGUSR1, hear)
    yield numbers
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_acts_as_ever_until_it_is_late(heard: list[int]) -> None:
    with LateSignals() as late:
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
        late()
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1] * 2


def test_what_nohup_ignores_stays_ignored_in_other_programs_too() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with LateSignals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
