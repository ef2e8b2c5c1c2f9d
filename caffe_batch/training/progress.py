"""How far a run is: what a display needs, worked out from events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caffe_batch.engines.caffe.events import LossRecord
from caffe_batch.jobs.metrics import NetTestMetrics

#: Points kept for a sparkline; beyond them every second one is dropped.
_CURVE_POINTS = 128
#: The rate is that of the last so many seconds.
_RATE_WINDOW_S = 15.0


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    Attributes:
        update, updates: Updates done, and to do in all.
        samples: Samples seen by these updates.
        epoch: Passes over the training set, or None if its records are not known.
        samples_per_s: Rate over the last seconds, tests included; None before the second update.
        loss: The last record: mean over its micro-batches. None before the first.
        losses: The loss so far, thinned out to at most 128 points.
        learning_rate: The rate of the next update.
        stage, stages: The stage of the next update, counted from 1, and how many there are.
        scores: Outputs of the last test.
        elapsed_s: Seconds since this attempt's first update began.
        left_s: Seconds to the last sample at the rate so far, or None while it isn't known.
        notes: Everything a person should know of this run, oldest first.
        training: False while Caffe starts and builds the nets.
        predicted_bytes: The plan's predicted peak, or None if it is meant for another device.
        used_bytes: Memory of the worker: of the GPU, or its resident set in CPU mode; None if
            nobody tells.
    """

    update: int
    updates: int
    samples: int
    epoch: float | None
    samples_per_s: float | None
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


#: Called with the progress about five times a second.
Observer = Callable[[Progress], None]


class Rate:
    """Samples per second, over a moving window and since the beginning."""

    def __init__(self, samples: int, seconds: float) -> None:
        self._first = (samples, seconds)
        self._points = deque([self._first])

    def add(self, samples: int, seconds: float) -> None:
        """Note that ``samples`` had been seen when ``seconds`` had been spent training."""
        self._points.append((samples, seconds))
        while len(self._points) > 2 and self._points[1][1] < seconds - _RATE_WINDOW_S:
            self._points.popleft()

    def recent(self) -> float | None:
        """Samples per second in the window, or None before there are two points."""
        return _slope(self._points[0], self._points[-1])

    def overall(self) -> float | None:
        """Samples per second since the beginning, or None before there are two points."""
        return _slope(self._first, self._points[-1])


class LossCurve:
    """The losses of a run of any length, thinned out to a bounded number of points."""

    def __init__(self) -> None:
        self._points: list[float] = []
        self._every, self._skipped = 1, 0

    def add(self, records: Sequence[LossRecord]) -> None:
        """Add records in their order."""
        for record in records:
            self._skipped += 1
            if self._skipped < self._every:
                continue
            self._skipped = 0
            self._points.append(record.loss)
            if len(self._points) == _CURVE_POINTS:
                del self._points[::2]
                self._every *= 2

    def points(self) -> tuple[float, ...]:
        """The losses, oldest first."""
        return tuple(self._points)


def _slope(start: tuple[int, float], end: tuple[int, float]) -> float | None:
    samples, seconds = end[0] - start[0], end[1] - start[1]
    return samples / seconds if samples > 0 and seconds > 0 else None
