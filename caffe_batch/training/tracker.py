"""Turns what a worker reports into lines of metrics.jsonl, and follows the run by these lines."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffe_batch.engines.events import (
    Built,
    GradientNorms,
    LogEvent,
    LossRecord,
    NetTestOutput,
    NetTestStarted,
    SnapshotTaken,
    Started,
    Updated,
    WorkerEvent,
)
from caffe_batch.jobs.metrics import (
    MOST_ELEMENTS,
    GradientMetrics,
    Metrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    as_measured,
    finite,
)
from caffe_batch.jobs.stages import TrainingStage, stage_at
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.training.progress import Progress, RunFold, epoch_of


@dataclass
class _Summary:
    """An output with many elements, as far as it has been read.

    Attributes:
        first: Its first element.
        count, total: How many elements, and their sum.
        least, most: The extremes of those that are finite; infinite while there are none.
    """

    first: NetTestOutput
    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        """Take in the next element."""
        self.count += 1
        self.total += value
        if math.isfinite(value):
            self.least, self.most = min(self.least, value), max(self.most, value)


class Tracker:
    """Follows the workers of a run, one after another.

    What is shown is what :class:`RunFold` derives from the lines; the tracker only adds the
    worker's progress between two of them.

    Args:
        stages: The stages of the job.
        train_records: Records of the training set, or None if unknown.
        first_update: Updates done when the run begins.
        seconds_before: Seconds spent training by earlier runs.
        fold: The lines of earlier runs, folded.
        metrics: Where measurements go.

    Attributes:
        update: Updates done.
        started: What the worker said about itself; None until it has.
        notes: What the user should know about this run, including the worker's own choices.
    """

    def __init__(
        self,
        stages: Sequence[TrainingStage],
        train_records: int | None,
        *,
        first_update: int,
        seconds_before: float,
        fold: RunFold,
        metrics: MetricsFile,
    ) -> None:
        self._stages, self._train_records, self._metrics = stages, train_records, metrics
        self._fold = fold
        self._seconds_before = self._seconds = seconds_before
        self._began: float | None = None
        self._test = NetTestStarted(first_update, 0)
        self._large: dict[tuple[int, str], int] = {}
        self._summary: _Summary | None = None
        self._first_update = self.update = first_update
        self.started: Started | None = None
        self.notes: tuple[str, ...] = ()
        self.rank_s: tuple[float, ...] = ()

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take in one event."""
        if isinstance(event, Started):
            self.started, self._first_update = event, self.update
            self.note(*event.choices)
        elif isinstance(event, Built):
            self._began, self._seconds_before = time.monotonic(), self._seconds
            self._large = {
                (net, name): count
                for net, name, count in event.large_outputs
                if count > MOST_ELEMENTS
            }
            self.note(*event.choices)
        elif isinstance(event, Updated):
            self._note_updates(event)
        elif isinstance(event, SnapshotTaken):
            self._metrics.sync()
        elif isinstance(event, GradientNorms):
            self._note_gradients(event)
        elif isinstance(event, NetTestStarted):
            self._write_summary()
            self._test = event
        elif isinstance(event, NetTestOutput):
            self._note_score(event)

    def note(self, *notes: str) -> None:
        """Add what the user should know, unless it has been noted already."""
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))

    def progress(self) -> Progress:
        """Everything a display needs, now; what was measured is flushed to the file."""
        self._metrics.flush()
        training = self._began is not None
        found = self._fold.progress(self._first_update, self.notes, training=training)
        return replace(found, rank_s=self.rank_s)

    def _write(self, line: Metrics) -> None:
        self._metrics.append(line)
        self._fold.add(line)

    def _note_updates(self, event: Updated) -> None:
        self.update = event.update
        self.rank_s = event.rank_s or self.rank_s
        seconds = self._seconds_before + event.seconds
        self._seconds = max(self._seconds, seconds)  # a test may be reported later
        for record in event.records:
            self._write(self._update_metrics(record))
        self._fold.advance(event.update, seconds)

    def _update_metrics(self, record: LossRecord) -> UpdateMetrics:
        stage = stage_at(self._stages, record.update - 1)
        samples = stage.samples(record.update)
        return UpdateMetrics(
            update=record.update,
            loss=finite(record.loss),
            learning_rate=as_measured(learning_rate(stage.solver, record.update - 1)),
            samples=samples,
            epoch=epoch_of(samples, self._train_records),
            seconds=round(self._seconds_before + record.seconds, 4),
            effective_batch=stage.effective_batch,
        )

    def _note_gradients(self, event: GradientNorms) -> None:
        """Those of a diverged update mean nothing, and JSON has no numbers for them."""
        size = stage_at(self._stages, event.update - 1).batch_size
        measured = math.isfinite(event.micro_norm_squared) and math.isfinite(
            event.mean_norm_squared
        )
        if measured and size is not None:
            self._write(
                GradientMetrics(
                    update=event.update,
                    batch_size=size,
                    passes=event.passes,
                    micro_norm_squared=event.micro_norm_squared,
                    mean_norm_squared=event.mean_norm_squared,
                    seconds=round(self._seconds_before + self._elapsed(), 4),
                )
            )

    def _note_score(self, event: NetTestOutput) -> None:
        count = self._large.get((self._test.net, event.name), 1)
        if count == 1:
            self._write_summary()
            self._write_score(event, event.value)
            return
        if self._summary is None or self._summary.first.name != event.name:
            self._write_summary()
            self._summary = _Summary(event)
        self._summary.add(event.value)
        if self._summary.count == count:
            self._write_summary()

    def _write_summary(self) -> None:
        """Write what has been read of a summarized output, as one line."""
        summary, self._summary = self._summary, None
        if summary is not None:
            self._write_score(
                summary.first,
                summary.total / summary.count,
                count=summary.count,
                least=finite(summary.least),
                most=finite(summary.most),
            )

    def _write_score(self, event: NetTestOutput, value: float, **more: Any) -> None:
        if self._fold.tested_at(self._test.net, event.index) == self._test.update:
            return  # a stage starts with the test that the previous one ended with
        self._seconds = self._seconds_before + self._elapsed()
        self._write(
            NetTestMetrics(
                update=self._test.update,
                test_net=self._test.net,
                index=event.index,
                output=event.name,
                value=finite(value),
                is_loss=event.is_loss,
                seconds=round(self._seconds, 4),
                **more,
            )
        )

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began
