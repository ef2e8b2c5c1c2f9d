"""Trains a job for a few updates in a process that then keeps its memory, to be measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.bench import Bench
from caffe_batch.engines.caffe.ending import classify
from caffe_batch.errors import CaffeBatchError
from caffe_batch.jobs.ending import Ending

WORKER = Path(__file__).with_name("train_worker.py")


@dataclass(frozen=True)
class Trained:
    """A process that has trained: its id, and the seconds of each turn."""

    pid: int
    seconds: tuple[float, ...]


class NotTrainedError(CaffeBatchError):
    """The process ended early; ``ending`` says why."""

    def __init__(self, job: Path, ending: Ending) -> None:
        super().__init__(f"{job.name}: {ending.reason.value}: {ending.detail}")
        self.ending = ending


@contextmanager
def training(
    bench: Bench, job: Path, solver: str = "solver.prototxt", *,
    warm_up: int = 2, turns: int = 0, updates: int = 1,
) -> Iterator[Trained]:  # fmt: skip
    """A process that has made ``warm_up`` updates and ``turns`` times ``updates`` more.

    It keeps its memory until the context ends.

    Args:
        bench: Where to train.
        job: Its working directory.
        solver: The solver, as seen from there.
        warm_up: Updates before the first turn; two reach the peak.
        turns: How often to measure the time.
        updates: Updates per turn.

    Raises:
        NotTrainedError: It ended early, for example because Caffe ran out of memory.
    """
    numbers = map(str, (warm_up, turns, updates))
    log = job / "worker.log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            bench.runtime.command([str(WORKER), bench.mode, solver, *numbers]),
            env=bench.environment(), cwd=job, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
        ) as child,
    ):  # fmt: skip
        said = child.stdout.readline() if child.stdout else ""
        if not said:
            lines = log.read_text(errors="replace").splitlines()
            raise NotTrainedError(job, classify(child.wait(), None, lines))
        answer = json.loads(said)
        try:
            yield Trained(answer["pid"], tuple(answer["seconds"]))
        finally:
            child.communicate()  # closes its stdin
