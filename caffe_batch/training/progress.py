"""How far a run has come: the lines of metrics.jsonl, folded one after another.

The live display, ``--follow``, ``status`` and the report all show the result of one object that
reads the same lines: :class:`RunFold`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from caffe_batch.device import Device
from caffe_batch.jobs.metrics import Metrics, NetTestMetrics, UpdateMetrics, as_measured
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.stages import TrainingStage, stage_at
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.training.chance import ChanceWatch

#: Points kept for a sparkline; beyond them every second one is dropped.
_CURVE_POINTS = 128
#: The rate is measured over this many seconds.
_RATE_WINDOW_S = 15.0


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    Attributes:
        update, updates: Updates done, and to do in total.
        samples: Samples seen by the updates done; None if those of an update are not known.
        epoch: Passes over the training set, or None if its records or the samples are not known.
        samples_per_s: Rate over the last seconds of training, including tests; None before the
            first update, and where the samples are not known.
        updates_per_s: The same in updates, where the samples are not known.
        loss: The last record: mean over its micro-batches, nan if it isn't finite. None before
            the first.
        losses: The loss so far, thinned out to at most 128 points.
        learning_rate: The rate of the next update.
        stage, stages: The stage of the next update, counted from 1, and how many there are.
        scores: Outputs of the last test.
        elapsed_s: Seconds spent training so far, over all attempts, up to the last measurement;
            without the time in which Caffe started or nothing ran.
        left_s: Seconds to the last update at the rate of this attempt so far, or None while that
            isn't known.
        notes: Everything the user should know about this run, oldest first.
        training: False while Caffe starts and builds the nets.
        predicted_bytes: The plan's predicted peak, or None if it is meant for another device.
        first_loss: The first record, which ``losses`` may have dropped; None before it.
        remark: A remark about the losses so far, with what to try; empty if there is none.
        reserve_bytes: What the plan keeps for the process itself on that device.
        elsewhere_bytes: The plan's predicted peak if it is meant for another device: device memory
            where the run is on the CPU, host memory where it is on a GPU.
        used_bytes: Memory of the worker: on the GPU, or its resident set in CPU mode; None if
            unknown. It includes the process itself.
        on_cpu: Whether it is host memory; None before the device is known.
        rank_bytes: Of several ranks, the memory of each, where that is known.
        rank_s: Of several ranks, the seconds that each recently took for the passes of an update.
    """

    update: int
    updates: int
    samples: int | None
    epoch: float | None
    samples_per_s: float | None
    updates_per_s: float | None
    loss: float | None
    losses: tuple[float, ...]
    learning_rate: float
    stage: int
    stages: int
    scores: tuple[NetTestMetrics, ...]
    elapsed_s: float
    left_s: float | None
    notes: tuple[str, ...]
    training: bool
    predicted_bytes: int | None = None
    used_bytes: int | None = None
    remark: str = ""
    first_loss: float | None = None
    reserve_bytes: int | None = None
    elsewhere_bytes: int | None = None
    on_cpu: bool | None = None
    rank_bytes: tuple[int, ...] = ()
    rank_s: tuple[float, ...] = ()

    def with_memory(
        self,
        plan: PlanFile,
        device: Device | None,
        used_bytes: int | None,
        rank_bytes: tuple[int, ...] = (),
    ) -> Progress:
        """The progress with what the plan predicts for a device, and what is in use there."""
        predicted = plan.predicted_on(device)
        return replace(
            self,
            predicted_bytes=predicted,
            reserve_bytes=None if predicted is None else plan.reserve_bytes,
            elsewhere_bytes=plan.predicted_peak_bytes if predicted is None else None,
            used_bytes=used_bytes,
            rank_bytes=rank_bytes,
            on_cpu=None if device is None else device.is_cpu,
        )


#: Called with the progress about five times a second.
Observer = Callable[[Progress], None]


class RunFold:
    """What is known about a run from its metrics lines, taken in one after another.

    Args:
        stages: The stages of the job.
        train_records: Records of the training set, or None if unknown.
        begun: Updates done when the run began; not 0 if it continues a run of another job.
        lines: The lines so far.
        chance_loss: The loss of a classifier that guesses, or None.
    """

    def __init__(
        self,
        stages: Sequence[TrainingStage],
        train_records: int | None,
        begun: int = 0,
        lines: Iterable[Metrics] = (),
        chance_loss: float | None = None,
    ) -> None:
        self._stages, self._train_records = stages, train_records
        self._rate, self._curve = Rate(begun, self._work(begun)), LossCurve()
        self._chance = ChanceWatch(chance_loss, stages[-1].last_update)
        self._loss: float | None = None
        self._first: float | None = None
        self._scores: dict[tuple[int, int], NetTestMetrics] = {}
        self._seconds = 0.0
        self.add(*lines)

    def add(self, *lines: Metrics) -> None:
        """Take in the next lines."""
        for line in lines:
            self._seconds = max(self._seconds, line.seconds)
            if isinstance(line, UpdateMetrics):
                self._loss = math.nan if line.loss is None else line.loss
                self._curve.add(self._loss)
                self._first = self._loss if self._first is None else self._first
                self._chance.add(line.update, self._loss)
                work = line.update if line.samples is None else line.samples
                self._rate.add(line.update, work, line.seconds)
            elif isinstance(line, NetTestMetrics):
                self._scores[line.test_net, line.index] = line

    def advance(self, update: int, seconds: float) -> None:
        """Note how far the run has come between two lines.

        Args:
            update: Updates done.
            seconds: Spent training so far, over all attempts.
        """
        if update > self._rate.update:
            self._seconds = max(self._seconds, seconds)
            self._rate.look_ahead(update, self._work(update), seconds)

    @property
    def measured(self) -> bool:
        """Whether a loss was recorded."""
        return self._loss is not None

    def tested_at(self, net: int, index: int) -> int | None:
        """The update of the last score of a test output, or None."""
        score = self._scores.get((net, index))
        return score.update if score else None

    def progress(self, first_update: int, notes: tuple[str, ...], *, training: bool) -> Progress:
        """Everything that a display needs, except the memory.

        Args:
            first_update: Updates done when the last attempt began.
            notes: What the user should know.
            training: Whether the nets of that attempt are built.
        """
        update = max(self._rate.update, first_update)
        stage, last = stage_at(self._stages, update), self._stages[-1]
        samples, recent = stage.samples(update), self._rate.recent()
        rate = self._rate.since(first_update, self._work(first_update))
        left = self._work(last.last_update) - self._work(update)
        return Progress(
            update=update,
            updates=last.last_update,
            samples=samples,
            epoch=epoch_of(samples, self._train_records),
            samples_per_s=None if samples is None else recent,
            updates_per_s=recent if samples is None else None,
            loss=self._loss,
            losses=self._curve.points(),
            first_loss=self._first,
            learning_rate=as_measured(learning_rate(stage.solver, update)),
            stage=stage.number,
            stages=len(self._stages),
            scores=tuple(self._scores[key] for key in sorted(self._scores)),
            elapsed_s=self._seconds,
            left_s=None if rate is None else left / rate,
            notes=notes,
            training=training,
            remark=self._chance.remark,
        )

    def _work(self, update: int) -> int:
        """The work in the first updates: samples, or updates if the samples are not known."""
        samples = stage_at(self._stages, update).samples(update)
        return update if samples is None else samples


def epoch_of(samples: int | None, records: int | None) -> float | None:
    """Passes over that many records, or None if either is not known."""
    return round(samples / records, 4) if samples is not None and records else None


class Rate:
    """Work per second, in samples or updates: over a moving window, and since an update.

    Args:
        update: Updates done at the beginning.
        work: The work in them.
    """

    def __init__(self, update: int, work: int) -> None:
        self._updates, self._work, self._seconds = [update], [work], [0.0]
        self._ahead: tuple[int, int, float] | None = None

    @property
    def update(self) -> int:
        """Updates done when the newest point was noted."""
        return self._ahead[0] if self._ahead else self._updates[-1]

    def add(self, update: int, work: int, seconds: float) -> None:
        """Note a point.

        Args:
            update: Updates done.
            work: The work in them.
            seconds: Spent training until then.
        """
        self._ahead = None
        self._updates.append(update)
        self._work.append(work)
        self._seconds.append(seconds)

    def look_ahead(self, update: int, work: int, seconds: float) -> None:
        """Note a provisional point, which the next one replaces."""
        self._ahead = (update, work, seconds)

    def recent(self) -> float | None:
        """Work per second in the window, or None before there is a point.

        The window starts at the last point before it, and has at least two points.
        """
        work, seconds = self._now()
        first = bisect_left(self._seconds, seconds - _RATE_WINDOW_S) - 1
        first = max(0, min(first, len(self._seconds) - (1 if self._ahead else 2)))
        return _slope(work - self._work[first], seconds - self._seconds[first])

    def since(self, update: int, work: int) -> float | None:
        """Work per second since an update, or None before there is a point after it.

        Args:
            update: Updates done.
            work: The work in them.
        """
        now, seconds = self._now()
        first = max(0, bisect_right(self._updates, update) - 1)
        return _slope(now - work, seconds - self._seconds[first])

    def _now(self) -> tuple[int, float]:
        return self._ahead[1:] if self._ahead else (self._work[-1], self._seconds[-1])


class LossCurve:
    """The losses of a run of any length, thinned out to a limited number of points."""

    def __init__(self) -> None:
        self._points: list[float] = []
        self._every, self._skipped = 1, 0

    def add(self, loss: float) -> None:
        """Add the next loss."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._points.append(loss)
        if len(self._points) == _CURVE_POINTS:
            del self._points[::2]
            self._every *= 2

    def points(self) -> tuple[float, ...]:
        """The losses, oldest first."""
        return tuple(self._points)


def _slope(work: int, seconds: float) -> float | None:
    return work / seconds if work > 0 and seconds > 0 else None
