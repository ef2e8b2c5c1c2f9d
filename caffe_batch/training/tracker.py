"""Follows a run: events become metrics lines, the record's numbers and progress."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from caffe_batch.engines.caffe.events import (
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
    GradientMetrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    finite,
)
from caffe_batch.jobs.stages import TrainingStage, stage_at
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.training.progress import LossCurve, Progress, Rate


class Tracker:
    """What is known of a run: its attempts one after another.

    Args:
        stages: The stages of the job.
        train_records: Records of the training set, or None if unknown.
        first_update: Updates done when the run begins.
        seconds_before: Seconds spent training by earlier runs.
        metrics: Where measurements go.

    Attributes:
        update: Updates done.
        started: What the worker said of itself, or None so far.
        notes: What a person should know of this run, the worker's own choices among it.
    """

    def __init__(
        self,
        stages: Sequence[TrainingStage],
        train_records: int | None,
        *,
        first_update: int,
        seconds_before: float,
        metrics: MetricsFile,
    ) -> None:
        self._stages, self._train_records, self._metrics = stages, train_records, metrics
        self._seconds_before = self._seconds = seconds_before
        self._began: float | None = None
        self._rate = Rate(self._samples(first_update), seconds_before)
        self._curve = LossCurve()
        self._loss: float | None = None
        self._test = NetTestStarted(first_update, 0)
        self._scores: dict[tuple[int, int], NetTestMetrics] = {}
        self.update = first_update
        self.started: Started | None = None
        self.notes: tuple[str, ...] = ()

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of one event."""
        if isinstance(event, Started):
            self.started = event
            self.note(*event.choices)
        elif isinstance(event, Built):
            self._began, self._seconds_before = time.monotonic(), self._seconds
            self.note(*event.choices)
        elif isinstance(event, Updated):
            self._note_updates(event)
        elif isinstance(event, SnapshotTaken):
            self._metrics.sync()
        elif isinstance(event, GradientNorms):
            self._note_gradients(event)
        elif isinstance(event, NetTestStarted):
            self._test = event
        elif isinstance(event, NetTestOutput):
            self._note_score(event)

    def note(self, *notes: str) -> None:
        """Add what a person should know, unless it is known."""
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))

    def scores(self) -> tuple[NetTestMetrics, ...]:
        """Outputs of the last test, in Caffe's order."""
        return tuple(self._scores[key] for key in sorted(self._scores))

    def progress(self) -> Progress:
        """Everything a display needs, now; what was measured reaches the file."""
        self._metrics.flush()
        overall = self._rate.overall()
        stage, last = stage_at(self._stages, self.update), self._stages[-1]
        samples = stage.samples(self.update)
        left = last.samples(last.last_update) - samples
        return Progress(
            update=self.update,
            updates=last.last_update,
            samples=samples,
            epoch=self._epoch(samples),
            samples_per_s=self._rate.recent(),
            loss=self._loss,
            losses=self._curve.points(),
            learning_rate=learning_rate(stage.solver, self.update),
            stage=stage.number,
            stages=len(self._stages),
            scores=self.scores(),
            elapsed_s=self._elapsed(),
            left_s=None if overall is None else left / overall,
            notes=self.notes,
            training=self._began is not None,
        )

    def _note_updates(self, event: Updated) -> None:
        self.update = event.update
        self._seconds = self._seconds_before + event.seconds
        self._rate.add(self._samples(event.update), self._seconds)
        self._curve.add(event.records)
        for record in event.records:
            self._loss = record.loss
            self._metrics.append(self._update_metrics(record))

    def _update_metrics(self, record: LossRecord) -> UpdateMetrics:
        stage = stage_at(self._stages, record.update - 1)
        samples = stage.samples(record.update)
        return UpdateMetrics(
            update=record.update,
            loss=finite(record.loss),
            learning_rate=float(f"{learning_rate(stage.solver, record.update - 1):.7g}"),
            samples=samples,
            epoch=self._epoch(samples),
            seconds=round(self._seconds_before + record.seconds, 4),
            effective_batch=stage.effective_batch,
        )

    def _note_gradients(self, event: GradientNorms) -> None:
        """Those of a diverged update say nothing, and JSON has no number for them."""
        stage = stage_at(self._stages, event.update - 1)
        if math.isfinite(event.micro_norm_squared):
            self._metrics.append(
                GradientMetrics(
                    update=event.update,
                    batch_size=stage.effective_batch // stage.solver.iter_size,
                    passes=event.passes,
                    micro_norm_squared=event.micro_norm_squared,
                    mean_norm_squared=event.mean_norm_squared,
                    seconds=round(self._seconds_before + self._elapsed(), 4),
                )
            )

    def _note_score(self, event: NetTestOutput) -> None:
        known = self._scores.get((self._test.net, event.index))
        if known and known.update == self._test.update:
            return  # a stage begins with the test that the one before has ended with
        self._seconds = self._seconds_before + self._elapsed()
        score = NetTestMetrics(
            update=self._test.update,
            test_net=self._test.net,
            index=event.index,
            output=event.name,
            value=finite(event.value),
            is_loss=event.is_loss,
            seconds=round(self._seconds, 4),
        )
        self._scores[score.test_net, score.index] = score
        self._metrics.append(score)

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _samples(self, update: int) -> int:
        return stage_at(self._stages, update).samples(update)

    def _epoch(self, samples: int) -> float | None:
        return round(samples / self._train_records, 4) if self._train_records else None
