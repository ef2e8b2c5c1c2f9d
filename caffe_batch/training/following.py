"""A run seen from outside: what its files say, while it runs or afterwards."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import (
    MetricsFollower,
    finite,
)
from caffe_batch.jobs.record import Attempt, JobRecord, JobState
from caffe_batch.jobs.stages import read_stages
from caffe_batch.training.memory_meter import MemoryMeter
from caffe_batch.training.progress import Progress, RunFold
from caffe_batch.training.restart import settle_if_free


class RunState(str, Enum):
    """The state of a job according to its files and its lock; the value is for JSON."""

    #: Not trained yet.
    PLANNED = "planned"
    RUNNING = JobState.RUNNING.value
    FINISHED = JobState.FINISHED.value
    INTERRUPTED = JobState.INTERRUPTED.value
    FAILED = JobState.FAILED.value
    #: The record says that it runs, but no process holds the directory.
    KILLED = "killed"


@dataclass(frozen=True)
class Status:
    """The state of a job at one moment.

    Attributes:
        state: Its state.
        progress: How far it has come.
        record: job.json, or None before the first ``train``.
        pid: Process id of the ``train`` that runs, or None.
        broken_lines: Lines of metrics.jsonl that can't be read.
    """

    state: RunState
    progress: Progress
    record: JobRecord | None
    pid: int | None
    broken_lines: int

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt, or None before the first."""
        return self.record.attempts[-1] if self.record and self.record.attempts else None

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch status``."""
        progress, attempt = self.progress, self.attempt
        return {
            "state": self.state.value,
            "update": progress.update,
            "updates": progress.updates,
            "stage": progress.stage,
            "stages": progress.stages,
            "epoch": progress.epoch,
            "loss": None if progress.loss is None else finite(progress.loss),
            "learning_rate": finite(progress.learning_rate),
            "samples_per_s": _digits(progress.samples_per_s),
            "updates_per_s": _digits(progress.updates_per_s),
            "eta_s": _digits(progress.left_s) if self.state is RunState.RUNNING else None,
            "test": [
                {
                    "update": score.update,
                    "test_net": score.test_net,
                    "output": score.output,
                    "value": score.value,
                    **(
                        {"count": score.count, "least": score.least, "most": score.most}
                        if score.is_summary
                        else {}
                    ),
                }
                for score in progress.scores
            ],
            "remark": progress.remark or None,
            "predicted_bytes": progress.predicted_bytes,
            "predicted_elsewhere_bytes": progress.elsewhere_bytes,
            "used_bytes": progress.used_bytes,
            **({"rank_bytes": list(progress.rank_bytes)} if progress.rank_bytes else {}),
            **({"rank_s": list(map(_digits, progress.rank_s))} if progress.rank_s else {}),
            "attempts": len(self.record.attempts) if self.record else 0,
            "engine": attempt.engine if attempt else None,
            "ending": attempt.ending.value if attempt and attempt.ending else None,
            "detail": attempt.detail if attempt else None,
            "host": self.record.host if self.record else None,
            "pid": self.pid,
            "worker_pid": attempt.pid if attempt and self.state is RunState.RUNNING else None,
        }


@dataclass(frozen=True)
class Standing:
    """One of several jobs: its state, or what is wrong with it.

    Attributes:
        name: The directory as it was given.
        status: Its state; None if it can't be read.
        problem: Why not.
    """

    name: str
    status: Status | None = None
    problem: InputError | None = None


class RunFollower:
    """Reads a run only from its files, so that it can't disturb it.

    If a restart died before it had a snapshot, the previous run is put back first.

    Args:
        job: A planned directory.

    Raises:
        InputError: It is not planned, or its files can't be read.
    """

    def __init__(self, job: JobDirectory) -> None:
        settle_if_free(job)
        self._job = job
        self._metrics = MetricsFollower(job.metrics)
        self._meter: tuple[int, MemoryMeter] | None = None
        self._plan = job.read_plan()
        self._stages = read_stages(self._plan)
        self._begun, self._fold = 0, self._fresh(0)

    def status(self) -> Status:
        """The present state of the job.

        Raises:
            InputError: Its files can't be read.
        """
        pid = self._job.supervisor()  # read first: a run that ends just now wasn't killed
        record = self._job.read_record()
        begun = record.attempts[0].first_update if record and record.attempts else 0
        replaced, lines = self._metrics.read()
        if replaced:  # it continued from a snapshot, perhaps with another split
            self._plan = self._job.read_plan()
            self._stages = read_stages(self._plan)
        elif begun != self._begun:
            self._metrics.close()
            _, lines = self._metrics.read()
        if replaced or begun != self._begun:
            self._begun, self._fold = begun, self._fresh(begun)
        self._fold.add(*lines)
        state = _state(record, pid)
        progress = self._progress(record, running=state is RunState.RUNNING)
        return Status(state, progress, record, pid, self._metrics.broken)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()

    def _fresh(self, begun: int) -> RunFold:
        return RunFold(
            self._stages, self._plan.train_records, begun, chance_loss=self._plan.chance_loss
        )

    def _progress(self, record: JobRecord | None, *, running: bool) -> Progress:
        attempt = record.attempts[-1] if record and record.attempts else None
        progress = self._fold.progress(
            attempt.first_update if attempt else 0,
            attempt.choices if attempt else (),
            training=self._fold.measured,
        )
        if attempt is None:
            return progress
        used = self._used_bytes(record, attempt) if running else None
        of_ranks = self._meter[1].of_ranks if used is not None and self._meter else ()
        progress = replace(progress, rank_s=attempt.rank_s)
        return progress.with_memory(self._plan, attempt.device, used, of_ranks)

    def _used_bytes(self, record: JobRecord | None, attempt: Attempt | None) -> int | None:
        """Memory of the worker, if it runs on this machine."""
        if not record or not attempt or not attempt.device or record.host != platform.node():
            return None
        if self._meter is None or self._meter[0] != attempt.pid:
            self._meter = (attempt.pid, MemoryMeter(attempt.pid, self._plan.gpus))
        return self._meter[1].read(attempt.device)


def _state(record: JobRecord | None, pid: int | None) -> RunState:
    if record is None:
        return RunState.PLANNED if pid is None else RunState.RUNNING
    if pid is not None:
        return RunState.RUNNING
    if record.state is JobState.RUNNING:
        return RunState.KILLED
    return RunState(record.state.value)


def _digits(value: float | None) -> float | None:
    """A measured time or rate, rounded to six significant digits."""
    return None if value is None else float(f"{value:.6g}")
