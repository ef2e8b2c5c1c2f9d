"""metrics.jsonl: what was measured while training, one JSON object a line.

The first line says the format, ``{"format": 2, ...}``; a file without it is of the first format,
whose lines are the same. A file keeps its format when the run continues.

Three kinds of lines follow. Each kind is in the order of ``update``; a test's lines come after
those of the updates before it:

``{"update", "loss", "learning_rate", "samples", "epoch", "seconds", "effective_batch"}``
    ``loss`` is the mean over all micro-batches since the line before, null if it is not finite;
    ``learning_rate`` and ``effective_batch`` (samples) are those of this update; ``samples`` are
    all so far; ``epoch`` is null if the records are not known. Where files are trained as they are,
    all three are null.
``{"update", "test_net", "index", "output", "value", "is_loss", "seconds"}``
    One output of a test net after ``update`` updates, the mean over its batches; an output of
    several elements has a line for each, told apart by ``index``. ``is_loss``: it has a
    loss_weight, which is not applied to the value. An output of more than 32 elements is no score
    and has one line, with ``"count"``, ``"least"`` and ``"most"`` of its elements as well;
    ``value`` is their mean.
``{"update", "batch_size", "passes", "micro_norm_squared", "mean_norm_squared", "seconds"}``
    With ``train --noise-scale``: the gradients of the ``passes`` micro-batches of this update, of
    ``batch_size`` samples each: the mean of their squared norms, and the squared norm of their
    mean. Not all updates have such a line.

``seconds`` are those spent training, over all attempts. A line may have more keys; they stay.
Lines are missing where ``train`` was killed and its worker continued to a last snapshot; the next
attempt says so. A line that can't be understood is passed over, and set aside when the run
continues (:func:`rewind`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from caffe_batch import __version__
from caffe_batch.files import json_line, open_regular
from caffe_batch.jobs.json_files import Fields, NewerFormatError, check_format, parse
from caffe_batch.planning.noise import Observation
from caffe_batch.solver.numbers import LARGEST_FLOAT32, as_float32

#: The newest format of metrics.jsonl, and the one that new files have.
METRICS_FORMAT = 2

#: An output of a test net with more elements than this is no score, and is summarised.
MOST_ELEMENTS = 32


@dataclass(frozen=True)
class UpdateMetrics:
    """The loss since the record before, see the module's text."""

    update: int
    loss: float | None
    learning_rate: float
    samples: int | None
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
    count: int = 1
    least: float | None = None
    most: float | None = None

    @property
    def is_summary(self) -> bool:
        """Whether it stands for the many elements of an output that is no score."""
        return self.count > 1


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
        OSError: Naming the file, from every method: the disk is full. Once one has raised it,
            leaving the context doesn't raise it again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._is_empty = not self._file.tell()
        self._lost = False

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError) if self._lost else self._writing():
            self._file.close()

    def append(self, metrics: Metrics) -> None:
        """Add a line; :meth:`flush` makes it visible to other programs."""
        with self._writing():
            if self._is_empty:
                own = {"format": METRICS_FORMAT, "caffe_batch_version": __version__}
                self._file.write(json_line(own) + "\n")
                self._is_empty = False
            self._file.write(json_line(_content(metrics)) + "\n")

    def flush(self) -> None:
        """Hand the lines to the system."""
        with self._writing():
            self._file.flush()

    def sync(self) -> None:
        """Make sure that the lines are on the disk: a snapshot counts on them."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _naming(self._path):
                yield
        except OSError:
            self._lost = True
            raise


def _content(metrics: Metrics) -> dict[str, Any]:
    content = dict(vars(metrics))
    if isinstance(metrics, NetTestMetrics) and not metrics.is_summary:
        for name in ("count", "least", "most"):
            del content[name]
    return content


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes every OSError name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def as_measured(value: float) -> float:
    """The shortest decimal of a number that Caffe holds in single precision: 0.01, no noise."""
    single = math.isfinite(value) and abs(value) <= LARGEST_FLOAT32
    return as_float32(value) if single else value


def finite(value: float) -> float | None:
    """The shortest decimal of a number of Caffe's, or None where JSON has no number for it."""
    return as_measured(value) if math.isfinite(value) else None


def read_line(path: Path, line: bytes) -> Metrics | None:
    """What one line of metrics.jsonl says; None for the line that says the format.

    Args:
        path: The file, for messages.
        line: The line, in UTF-8.

    Raises:
        NewerFormatError: It says that the file is of a newer format.
        ValueError: It is of none of the kinds.
    """
    content = Fields(path, parse(line))
    if "update" not in content.content and "format" in content.content:
        check_format(content, METRICS_FORMAT)
        return None
    update, seconds = content.integer("update"), content.seconds("seconds")
    if "output" in content.content:
        return NetTestMetrics(
            update=update,
            test_net=content.integer("test_net"),
            index=content.integer("index"),
            output=content.text("output"),
            value=content.maybe(content.number, "value"),
            is_loss=content.flag("is_loss"),
            seconds=seconds,
            count=content.maybe(content.positive, "count", 1),
            least=content.maybe(content.number, "least"),
            most=content.maybe(content.number, "most"),
        )
    if "passes" in content.content:
        return GradientMetrics(
            update=update,
            batch_size=content.positive("batch_size"),
            passes=content.positive("passes"),
            micro_norm_squared=content.number("micro_norm_squared"),
            mean_norm_squared=content.number("mean_norm_squared"),
            seconds=seconds,
        )
    if "loss" not in content.content:
        raise ValueError("none of the kinds")
    return UpdateMetrics(
        update=update,
        loss=content.maybe(content.number, "loss"),
        learning_rate=content.real("learning_rate"),
        samples=content.maybe(content.integer, "samples"),
        epoch=content.maybe(content.number, "epoch"),
        seconds=seconds,
        effective_batch=content.maybe(content.positive, "effective_batch"),
    )


def _understood(path: Path, line: bytes) -> tuple[bool, Metrics | None]:
    """Whether a line can be understood, and what it says.

    Raises:
        NewerFormatError: It says that the file is of a newer format.
    """
    try:
        return True, read_line(path, line)
    except NewerFormatError:
        raise
    except ValueError:
        return False, None


def read_metrics(path: Path) -> Iterator[Metrics]:
    """The lines of metrics.jsonl, first to last.

    Those that can't be understood are passed over, and a last one that isn't whole yet. An output
    of many elements, each on a line of its own as older versions wrote it, is summarised.

    Raises:
        NewerFormatError: The file is of a newer format.
    """
    with open_regular(path) as file:
        whole = (_understood(path, line)[1] for line in file if line.endswith(b"\n"))
        yield from summarised(metrics for metrics in whole if metrics is not None)


def summarised(lines: Iterable[Metrics]) -> Iterator[Metrics]:
    """The lines, with one in place of more than ``MOST_ELEMENTS`` of one output of one test.

    Older versions wrote a line for each element of an output.
    """
    first: list[NetTestMetrics] = []  # of the output, as many as it may have
    more = _More()
    for metrics in lines:
        if first and not _same_output(first[0], metrics):
            yield from _folded(first, more)
            first, more = [], _More()
        if not isinstance(metrics, NetTestMetrics) or metrics.is_summary:
            yield metrics
        elif len(first) < MOST_ELEMENTS:
            first.append(metrics)
        else:
            more.add(metrics)
    yield from _folded(first, more)


class _More:
    """What is left of the elements of an output beyond the first ones."""

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self.least, self.most = math.inf, -math.inf

    def add(self, element: NetTestMetrics) -> None:
        value = math.nan if element.value is None else element.value
        self.count, self.total = self.count + 1, self.total + value
        if math.isfinite(value):
            self.least, self.most = min(self.least, value), max(self.most, value)


def _same_output(one: NetTestMetrics, other: Metrics) -> bool:
    """Whether both are elements of one output of one test."""
    return isinstance(other, NetTestMetrics) and (one.update, one.test_net, one.output) == (
        other.update,
        other.test_net,
        other.output,
    )


def _folded(first: Sequence[NetTestMetrics], more: _More) -> Iterator[NetTestMetrics]:
    if not more.count:
        yield from first
        return
    for element in first:
        more.add(element)
    yield replace(
        first[0],
        value=finite(more.total / more.count),
        count=more.count,
        least=finite(more.least),
        most=finite(more.most),
    )


def check_metrics_format(path: Path) -> None:
    """Refuses a metrics.jsonl of a newer format; it may be missing.

    Raises:
        NewerFormatError: It is of a newer format.
    """
    if path.is_file():
        with open_regular(path) as file:
            _understood(path, file.readline())


class MetricsFollower:
    """Reads what is added to metrics.jsonl, for programs that watch a run.

    Args:
        path: The file; it may be missing so far.

    Attributes:
        broken: Lines that were passed over because they can't be understood.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._part = b""
        self.broken = 0

    def read(self) -> tuple[bool, list[Metrics]]:
        """Whether the file was replaced, and its lines since the last call.

        A run that resumes from a snapshot replaces the file (:func:`rewind`): what was read
        before is then void, and the lines start again with the first.

        Raises:
            NewerFormatError: The file is of a newer format.
        """
        replaced = self._open()
        if self._file is None:
            return replaced, []
        *lines, self._part = (self._part + self._file.read()).split(b"\n")
        return replaced, list(summarised(self._understood(lines)))

    def _understood(self, lines: Iterable[bytes]) -> Iterator[Metrics]:
        for line in lines:
            understood, metrics = _understood(self._path, line)
            self.broken += not understood
            if metrics is not None:
                yield metrics

    def close(self) -> None:
        """Close the file; what is read next begins with its first line."""
        if self._file is not None:
            self._file.close()
        self._file, self._part, self.broken = None, b"", 0

    def _open(self) -> bool:
        """Open the file that has the name now; returns whether it replaced another one."""
        before = self._file and os.fstat(self._file.fileno())
        try:
            if before and os.path.samestat(before, self._path.stat()):
                return False
            self.close()
            self._file = open_regular(self._path)
        except FileNotFoundError:
            self.close()
        return before is not None


def last_scores(path: Path) -> tuple[NetTestMetrics, ...]:
    """All outputs of the last test in metrics.jsonl; empty if there was none."""
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
        damaged: Lines that couldn't be understood, and are set aside.
    """

    update: int = 0
    seconds: float = 0.0
    damaged: int = 0

    def notes(self, begun: int, done: int) -> list[str]:
        """A sentence each on lines that were set aside and updates that are missing.

        Args:
            begun: Updates done where the run began.
            done: Updates done in the snapshot that it resumes from; every snapshot follows a loss.
        """
        said = []
        if self.damaged:
            lines = "1 line" if self.damaged == 1 else f"{self.damaged} lines"
            said.append(
                f"{lines} of metrics.jsonl can't be understood: set aside in metrics.jsonl.damaged."
            )
        first = max(self.update, begun) + 1
        if first <= done:
            said.append(
                f"metrics.jsonl lacks the losses and tests of updates {first} to {done}: the last "
                "run ended before it wrote them. caffe.log has what was said of them."
            )
        return said


def damaged_lines(path: Path) -> Path:
    """Where the lines of a metrics.jsonl are that couldn't be understood."""
    return path.with_name(f"{path.name}.damaged")


def rewind(path: Path, update: int, *, tests_again: bool) -> Kept:
    """Drop what came after a snapshot, since the run resumes from there.

    What stays, stays byte for byte. Lines that can't be understood move to the file
    :func:`damaged_lines`, a last one that was cut short among them.

    Args:
        path: metrics.jsonl; it may be missing.
        update: Updates done in the snapshot.
        tests_again: Whether Caffe repeats the test at that update; then its lines go as well.

    Raises:
        NewerFormatError: The file is of a newer format; it stays as it is.
        OSError: Naming the file that couldn't be written.
    """
    if not path.is_file():
        return Kept()
    last, seconds, damaged = 0, 0.0, []
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)  # a kill may have left half of one
    with open_regular(path) as lines, temporary.open("wb") as kept, _naming(temporary):
        for line in lines:
            understood, metrics = _understood(path, line)
            if not understood:
                damaged.append(line)
                continue
            if metrics is not None:
                again = tests_again and isinstance(metrics, NetTestMetrics)
                if metrics.update > (update - 1 if again else update):
                    continue
                seconds = max(seconds, metrics.seconds)
                last = metrics.update if isinstance(metrics, UpdateMetrics) else last
            kept.write(_ended(line))
        kept.flush()
        os.fsync(kept.fileno())
    if damaged:
        _set_aside(damaged_lines(path), damaged)
    temporary.replace(path)
    return Kept(last, seconds, len(damaged))


def _set_aside(path: Path, lines: Sequence[bytes]) -> None:
    with path.open("ab") as file, _naming(path):
        file.writelines(map(_ended, lines))
        file.flush()
        os.fsync(file.fileno())


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"
