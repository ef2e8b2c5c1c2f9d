"""metrics.jsonl: what was measured while training, one JSON object a line.

Three kinds of lines. Each kind is in the order of ``update``; a test's lines come after those of
the updates before it:

``{"update", "loss", "learning_rate", "samples", "epoch", "seconds", "effective_batch"}``
    ``loss`` is the mean over all micro-batches since the line before, null if it is not finite;
    ``learning_rate`` and ``effective_batch`` (samples) are those of this update; ``samples`` are
    all so far; ``epoch`` is null if the records are not known.
``{"update", "test_net", "index", "output", "value", "is_loss", "seconds"}``
    One output of a test net after ``update`` updates, the mean over its batches; an output of
    several elements has a line for each, told apart by ``index``. ``is_loss``: it has a
    loss_weight, which is not applied to the value.
``{"update", "batch_size", "passes", "micro_norm_squared", "mean_norm_squared", "seconds"}``
    With ``train --noise-scale``: the gradients of the ``passes`` micro-batches of this update, of
    ``batch_size`` samples each: the mean of their squared norms, and the squared norm of their
    mean. Not all updates have such a line.

``seconds`` are those spent training, over all attempts. Lines are missing where ``train`` was
killed and its worker has gone on to a last snapshot; the next attempt says so.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from caffe_batch.planning.noise import Observation


@dataclass(frozen=True)
class UpdateMetrics:
    """The loss since the record before, see the module's text."""

    update: int
    loss: float | None
    learning_rate: float
    samples: int
    epoch: float | None
    seconds: float
    effective_batch: int | None = None  # files of older versions don't have it


@dataclass(frozen=True)
class NetTestMetrics:
    """One output of one test, see the module's text."""

    update: int
    test_net: int
    index: int
    output: str
    value: float | None
    is_loss: bool
    seconds: float


@dataclass(frozen=True)
class GradientMetrics:
    """The gradients of the micro-batches of one update, see the module's text."""

    update: int
    batch_size: int
    passes: int
    micro_norm_squared: float
    mean_norm_squared: float
    seconds: float

    @property
    def observation(self) -> Observation:
        """What it says of the gradient noise scale."""
        return Observation(
            self.batch_size, self.passes, self.micro_norm_squared, self.mean_norm_squared
        )


Metrics = UpdateMetrics | NetTestMetrics | GradientMetrics


class MetricsFile:
    """Appends to metrics.jsonl; a context manager.

    Raises:
        OSError: Naming the file, from every method: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._named_errors():
            self._file.close()

    def append(self, metrics: Metrics) -> None:
        """Add a line; :meth:`flush` makes it visible to other programs."""
        with self._named_errors():
            self._file.write(json.dumps(vars(metrics)) + "\n")

    def flush(self) -> None:
        """Hand the lines to the system."""
        with self._named_errors():
            self._file.flush()

    def sync(self) -> None:
        """Make sure that the lines are on the disk: a snapshot counts on them."""
        with self._named_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def finite(value: float) -> float | None:
    """The value, as precise as a float of Caffe's, or None where JSON has no number for it."""
    return float(f"{value:.8g}") if math.isfinite(value) else None


def read_line(line: str) -> Metrics:
    """What one line of metrics.jsonl says.

    Raises:
        ValueError: It is of none of the three kinds.
    """
    try:
        content = json.loads(line)
        if "output" in content:
            return NetTestMetrics(**content)
        if "passes" in content:
            return GradientMetrics(**content)
        return UpdateMetrics(**content)
    except TypeError as error:
        raise ValueError(f"no line of metrics: {line!r}") from error


def read_metrics(path: Path) -> Iterator[Metrics]:
    """The lines of metrics.jsonl, first to last; those that can't be read are passed over."""
    return (metrics for metrics in _read_lines(path) if metrics is not None)


def _read_lines(path: Path) -> Iterator[Metrics | None]:
    """Every line, None for one that can't be read; a last one that was cut short is left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                yield read_line(line)
            except ValueError:
                yield None


class MetricsFollower:
    """Reads what is added to metrics.jsonl, for programs that look on.

    Args:
        path: The file; it may be missing so far.

    Attributes:
        broken: Lines that were passed over because they can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._part = b""
        self.broken = 0

    def read(self) -> tuple[bool, list[Metrics]]:
        """Whether the file is another one than before, and its lines since the last call.

        A run that goes on from a snapshot replaces the file (:func:`rewind`): what was read
        before is then void, and the lines are those from the first on.
        """
        replaced = self._open()
        if self._file is None:
            return replaced, []
        *lines, self._part = (self._part + self._file.read()).split(b"\n")
        metrics = []
        for line in lines:
            try:
                metrics.append(read_line(line.decode("utf-8")))
            except ValueError:
                self.broken += 1
        return replaced, metrics

    def close(self) -> None:
        """Close the file; what is read next begins with its first line."""
        if self._file is not None:
            self._file.close()
        self._file, self._part, self.broken = None, b"", 0

    def _open(self) -> bool:
        """Open the file that has the name now; whether that is another than before."""
        before = self._file and os.fstat(self._file.fileno())
        try:
            if before and os.path.samestat(before, self._path.stat()):
                return False
            self.close()
            self._file = self._path.open("rb")
        except FileNotFoundError:
            self.close()
        return before is not None


def last_scores(path: Path) -> tuple[NetTestMetrics, ...]:
    """Every output of the last test in metrics.jsonl; empty if there was none."""
    scores: dict[tuple[int, int], NetTestMetrics] = {}
    if path.is_file():
        for metrics in read_metrics(path):
            if isinstance(metrics, NetTestMetrics):
                scores[metrics.test_net, metrics.index] = metrics
    return tuple(scores[key] for key in sorted(scores))


def gradient_metrics(path: Path) -> list[GradientMetrics]:
    """The lines of metrics.jsonl that ``train --noise-scale`` adds, first to last."""
    if not path.is_file():
        return []
    return [metrics for metrics in read_metrics(path) if isinstance(metrics, GradientMetrics)]


@dataclass(frozen=True)
class Kept:
    """What :func:`rewind` leaves.

    Attributes:
        update: The last update that has a loss; 0 if none has.
        seconds: Spent training up to there.
        broken: Lines that couldn't be read, and are gone.
    """

    update: int = 0
    seconds: float = 0.0
    broken: int = 0

    def notes(self, begun: int, done: int) -> list[str]:
        """A sentence each on lines that were broken and updates that are missing.

        Args:
            begun: Updates done where the run began.
            done: Those of the snapshot that it goes on from; each snapshot comes after a loss.
        """
        said = []
        if self.broken:
            said.append(
                f"{self.broken} lines of metrics.jsonl could not be read, and are left out."
            )
        first = max(self.update, begun) + 1
        if first <= done:
            said.append(
                f"metrics.jsonl lacks the losses and tests of updates {first} to {done}: the last "
                "run ended before it wrote them. Caffe's log has what Caffe said of them."
            )
        return said


def rewind(path: Path, update: int, *, tests_again: bool) -> Kept:
    """Drop what came after a snapshot, since the run goes on from there.

    Args:
        path: metrics.jsonl; it may be missing.
        update: Updates done in the snapshot.
        tests_again: Whether Caffe repeats the test at that update; then its lines go as well.
    """
    if not path.is_file():
        return Kept()
    last, seconds, broken = 0, 0.0, 0
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)  # half of one, if a kill has cut this short before
    with MetricsFile(temporary) as kept:
        for metrics in _read_lines(path):
            if metrics is None:
                broken += 1
                continue
            again = tests_again and isinstance(metrics, NetTestMetrics)
            if metrics.update <= (update - 1 if again else update):
                kept.append(metrics)
                seconds = max(seconds, metrics.seconds)
                last = metrics.update if isinstance(metrics, UpdateMetrics) else last
        kept.sync()
    temporary.replace(path)
    return Kept(last, seconds, broken)
