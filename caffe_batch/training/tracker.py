"""Follows one attempt: events become metrics lines, the record's numbers and progress."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from caffe_batch.schema import caffe_pb2
from caffe_batch.training.events import (
    Built,
    GradientNorms,
    LogEvent,
    LossRecord,
    NetTestOutput,
    NetTestStarted,
    Started,
    Updated,
    WorkerEvent,
)
from caffe_batch.training.job import PlanFacts
from caffe_batch.training.learning_rate import learning_rate
from caffe_batch.training.metrics import (
    GradientMetrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    finite,
)
from caffe_batch.training.progress import LossCurve, Progress, Rate


class Tracker:
    """What is known of a running attempt.

    Args:
        solver: The solver, in current syntax.
        plan: The facts of the plan.
        first_update: Updates done when the attempt begins.
        seconds_before: Seconds spent training by earlier attempts.
        metrics: Where measurements go.
        notes: What a person should know of this run already.

    Attributes:
        update: Updates done.
        started: What the worker said of itself, or None so far.
        notes: With the worker's own choices once it has started.
    """

    def __init__(
        self,
        solver: caffe_pb2.SolverParameter,
        plan: PlanFacts,
        *,
        first_update: int,
        seconds_before: float,
        metrics: MetricsFile,
        notes: Sequence[str],
    ) -> None:
        self._solver, self._plan, self._metrics = solver, plan, metrics
        self._seconds_before = seconds_before
        self._began: float | None = None
        self._rate = Rate(first_update, 0.0)
        self._curve = LossCurve()
        self._loss: float | None = None
        self._test = NetTestStarted(first_update, 0)
        self._scores: dict[tuple[int, int], NetTestMetrics] = {}
        self.update = first_update
        self.started: Started | None = None
        self.notes = tuple(notes)

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of one event."""
        if isinstance(event, Started):
            self.started = event
            self.notes += event.choices
        elif isinstance(event, Built):
            self._began = time.monotonic()
        elif isinstance(event, Updated):
            self._note_updates(event)
        elif isinstance(event, GradientNorms):
            self._note_gradients(event)
        elif isinstance(event, NetTestStarted):
            self._test = event
        elif isinstance(event, NetTestOutput):
            self._note_score(event)

    def scores(self) -> tuple[NetTestMetrics, ...]:
        """Outputs of the last test, in Caffe's order."""
        return tuple(self._scores[key] for key in sorted(self._scores))

    def progress(self) -> Progress:
        """Everything a display needs, now; what was measured reaches the file."""
        self._metrics.flush()
        per_update = self._plan.effective_batch
        recent, overall = self._rate.recent(), self._rate.overall()
        left = self._solver.max_iter - self.update
        return Progress(
            update=self.update,
            updates=self._solver.max_iter,
            samples=self.update * per_update,
            epoch=self._epoch(self.update),
            samples_per_s=None if recent is None else recent * per_update,
            loss=self._loss,
            losses=self._curve.points(),
            learning_rate=learning_rate(self._solver, self.update),
            scores=self.scores(),
            elapsed_s=self._elapsed(),
            left_s=None if overall is None else left / overall,
            notes=self.notes,
            training=self._began is not None,
        )

    def _note_updates(self, event: Updated) -> None:
        self.update = event.update
        self._rate.add(event.update, event.seconds)
        self._curve.add(event.records)
        for record in event.records:
            self._loss = record.loss
            self._metrics.append(self._update_metrics(record))

    def _update_metrics(self, record: LossRecord) -> UpdateMetrics:
        return UpdateMetrics(
            update=record.update,
            loss=finite(record.loss),
            learning_rate=float(f"{learning_rate(self._solver, record.update - 1):.7g}"),
            samples=record.update * self._plan.effective_batch,
            epoch=self._epoch(record.update),
            seconds=round(self._seconds_before + record.seconds, 4),
        )

    def _note_gradients(self, event: GradientNorms) -> None:
        """Those of a diverged update say nothing, and JSON has no number for them."""
        if math.isfinite(event.micro_norm_squared):
            self._metrics.append(
                GradientMetrics(
                    update=event.update,
                    batch_size=self._plan.batch_size,
                    passes=event.passes,
                    micro_norm_squared=event.micro_norm_squared,
                    mean_norm_squared=event.mean_norm_squared,
                    seconds=round(self._seconds_before + self._elapsed(), 4),
                )
            )

    def _note_score(self, event: NetTestOutput) -> None:
        score = NetTestMetrics(
            update=self._test.update,
            test_net=self._test.net,
            index=event.index,
            output=event.name,
            value=finite(event.value),
            is_loss=event.is_loss,
            seconds=round(self._seconds_before + self._elapsed(), 4),
        )
        self._scores[score.test_net, score.index] = score
        self._metrics.append(score)

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _epoch(self, update: int) -> float | None:
        records = self._plan.train_records
        return round(update * self._plan.effective_batch / records, 4) if records else None
