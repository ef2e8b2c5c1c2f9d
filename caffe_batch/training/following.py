"""A run seen from outside: what its files say, while it goes on or afterwards."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from caffe_batch.engines.caffe.events import LossRecord
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import (
    Metrics,
    MetricsFollower,
    NetTestMetrics,
    UpdateMetrics,
    finite,
)
from caffe_batch.jobs.record import Attempt, JobRecord, JobState
from caffe_batch.jobs.stages import read_stages, stage_at
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.training.memory_meter import MemoryMeter
from caffe_batch.training.progress import LossCurve, Progress, Rate


class RunState(str, Enum):
    """Where a job stands, as far as its files and its lock tell; the value is for JSON."""

    #: Not trained yet.
    PLANNED = "planned"
    RUNNING = JobState.RUNNING.value
    FINISHED = JobState.FINISHED.value
    INTERRUPTED = JobState.INTERRUPTED.value
    FAILED = JobState.FAILED.value
    #: The record says that it runs, and no process holds the directory.
    KILLED = "killed"


@dataclass(frozen=True)
class Status:
    """A job at one moment.

    Attributes:
        state: Where it stands.
        progress: How far it is.
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
            "learning_rate": progress.learning_rate,
            "samples_per_s": progress.samples_per_s,
            "eta_s": progress.left_s if self.state is RunState.RUNNING else None,
            "test": [
                {
                    "update": score.update,
                    "test_net": score.test_net,
                    "output": score.output,
                    "value": score.value,
                }
                for score in progress.scores
            ],
            "predicted_bytes": progress.predicted_bytes,
            "used_bytes": progress.used_bytes,
            "attempts": len(self.record.attempts) if self.record else 0,
            "ending": attempt.ending if attempt else None,
            "detail": attempt.detail if attempt else None,
            "host": self.record.host if self.record else None,
            "pid": self.pid,
            "worker_pid": attempt.pid if attempt and self.state is RunState.RUNNING else None,
        }


class RunFollower:
    """Reads a run from its files alone; it can't disturb it.

    Args:
        job: A planned directory.

    Raises:
        InputError: It is not planned, or its files can't be read.
    """

    def __init__(self, job: JobDirectory) -> None:
        self._job = job
        self._metrics = MetricsFollower(job.metrics)
        self._meter: tuple[int, MemoryMeter] | None = None
        self._begin()

    def status(self) -> Status:
        """The job now.

        Raises:
            InputError: Its files can't be read.
        """
        pid = self._job.supervisor()  # asked first: a run that ends now is not a killed one
        record = self._job.read_record()
        replaced, lines = self._metrics.read()
        if replaced:  # it goes on from a snapshot, perhaps with another split
            self._begin()
        self._note(lines)
        state = _state(record, pid)
        progress = self._progress(record, running=state is RunState.RUNNING)
        return Status(state, progress, record, pid, self._metrics.broken)

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()

    def _begin(self) -> None:
        self._plan = self._job.read_plan()
        self._stages = read_stages(self._plan)
        self._last: UpdateMetrics | None = None
        self._scores: dict[tuple[int, int], NetTestMetrics] = {}
        self._rate, self._curve = Rate(0, 0.0), LossCurve()

    def _note(self, lines: Sequence[Metrics]) -> None:
        for line in lines:
            if isinstance(line, UpdateMetrics):
                self._last = line
                self._rate.add(line.samples, line.seconds)
                loss = math.nan if line.loss is None else line.loss
                self._curve.add([LossRecord(line.update, loss, line.seconds)])
            elif isinstance(line, NetTestMetrics):
                self._scores[line.test_net, line.index] = line

    def _progress(self, record: JobRecord | None, *, running: bool) -> Progress:
        last, overall = self._last, self._rate.overall()
        attempt = record.attempts[-1] if record and record.attempts else None
        update = last.update if last else attempt.first_update if attempt else 0
        stage, end = stage_at(self._stages, update), self._stages[-1]
        samples = stage.samples(update)
        left = end.samples(end.last_update) - samples
        return Progress(
            update=update,
            updates=end.last_update,
            samples=samples,
            epoch=last.epoch if last else None,
            samples_per_s=self._rate.recent(),
            loss=None if last is None else math.nan if last.loss is None else last.loss,
            losses=self._curve.points(),
            learning_rate=learning_rate(stage.solver, update),
            stage=stage.number,
            stages=len(self._stages),
            scores=tuple(self._scores[key] for key in sorted(self._scores)),
            elapsed_s=last.seconds if last else 0.0,
            left_s=None if overall is None else left / overall,
            notes=attempt.choices if attempt else (),
            training=last is not None,
            predicted_bytes=self._plan.predicted_on(attempt.device) if attempt else None,
            used_bytes=self._used_bytes(record, attempt) if running else None,
        )

    def _used_bytes(self, record: JobRecord | None, attempt: Attempt | None) -> int | None:
        """Memory of the worker, if it is one of this machine's."""
        if not record or not attempt or not attempt.device or record.host != platform.node():
            return None
        if self._meter is None or self._meter[0] != attempt.pid:
            self._meter = (attempt.pid, MemoryMeter(attempt.pid))
        return self._meter[1].read(attempt.device)


def _state(record: JobRecord | None, pid: int | None) -> RunState:
    if record is None:
        return RunState.PLANNED if pid is None else RunState.RUNNING
    if pid is not None:
        return RunState.RUNNING
    if record.state is JobState.RUNNING:
        return RunState.KILLED
    return RunState(record.state.value)
