"""Holds a run while a test acts, so that no test depends on the speed of the machine.

Real Caffe makes an update of the nets here in 35 us, or in a second where the machine is busy. A
test that interrupts, kills or looks at a run therefore never counts on time: it makes a
:class:`Hold` before the run, which stops the worker between two given micro-batches, acts once the
hold is reached, and releases it.

The hold is a Python layer in the job's nets (``tests/holding_layer.py``), so the run is started,
supervised and stopped as any other: in this process, as a command, in the background.

What is waited for here has limits of minutes, which only end a test that would hang.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.training.progress import Progress

#: The most that anything is waited for, in seconds.
PATIENCE_S = 300.0

#: How long the runs are whose updates no test counts, relative to what is usual: 0.1 and 10 show
#: that nothing depends on it (CONTRIBUTING.md).
RUN_LENGTH = float(os.environ.get("TEST_RUN_LENGTH", "1"))

#: The updates of a run that a test holds, and ends itself.
LONG = round(10_000 * RUN_LENGTH)

_LAYER = """
layer {{ name: "hold" type: "Python" bottom: "{labels}" include {{ phase: TRAIN }}
  python_param {{ module: "holding_layer" layer: "Hold" param_str: "{place}" }} }}
"""


class _Held:
    """A file that a worker waits at until it is gone; it says so in one beside it.

    Attributes:
        file: The file; with ``.reached`` in its name, that which the worker makes.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    @property
    def reached(self) -> bool:
        """Whether the worker waits here, or has done so."""
        return self.file.with_suffix(".reached").exists()

    def wait(self) -> None:
        """Return when the worker waits here."""
        wait_for(lambda: self.reached)

    def release(self) -> None:
        """Let the worker go on, now or when it comes here."""
        self.file.unlink(missing_ok=True)


class Hold(_Held):
    """A place in a run where its worker waits until it is released.

    Args:
        job: A planned job, before its run, in the folder where its workers run (or one of
            PYTHONPATH); its nets get the layer.
        updates: The worker waits when it has done this many updates itself (those before the
            snapshot that it continues from don't count), in the first micro-batch of the next.
        iter_size: Micro-batches of an update.
        stage: Which of the job's nets: 1 for net.prototxt, 2 for that of the second stage.

    What asks the worker to stop (SIGINT, SIGTERM, SIGUSR1) releases it too.

    When a worker continues after a hold, a report of its progress is due: it makes one and sees
    whether its supervisor is still there.
    """

    def __init__(
        self, job: JobDirectory, updates: int, *, iter_size: int = 3, stage: int = 1
    ) -> None:
        folder = job.path.parent
        holds = folder / f"{job.path.name}.holds"
        shutil.copy(Path(__file__).with_name("holding_layer.py"), folder)
        for net in job.path.glob("net*.prototxt"):
            number = re.search(r"\d+", net.name)
            place = holds / (number[0] if number else "1")
            if not place.is_dir():
                place.mkdir(parents=True)
                text = net.read_text()
                labels = re.findall(r'top: "(\w*label)"', text)[0]
                net.write_text(text + _LAYER.format(labels=labels, place=place))
        super().__init__(holds / str(stage) / str(updates * iter_size + 1))


class WorkerHold(_Held):
    """A hold without a layer, where the job is planned again: the worker has it.

    Args:
        folder: Where its file lies.
        updates: The updates that are done when the worker waits.
        monkeypatch: Sets the variable that tells the worker.

    Attributes:
        script: The worker, for ``train``.
    """

    script = Path(__file__).with_name("training") / "held_worker.py"

    def __init__(self, folder: Path, updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder / "held")
        monkeypatch.setenv("HELD", f"{updates},{folder / 'held'}")


class WhenHeld:
    """An observer of ``train`` that acts once at a hold, and then releases it."""

    def __init__(self, hold: Hold | WorkerHold, act: Callable[[], object]) -> None:
        self._hold, self._act = hold, act
        self.acted = False

    def __call__(self, progress: Progress) -> None:
        if self._hold.reached and not self.acted:
            self.acted = True
            self._act()
            self._hold.release()


def signal_self(number: signal.Signals) -> Callable[[], None]:
    """A function that sends this process a signal, as a person's Ctrl-C does."""
    return lambda: os.kill(os.getpid(), number)


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a process that hasn't taken it yet, as one that is stopped."""
    if not is_alive(pid):
        return False
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def wait_for(condition: Callable[[], object]) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
