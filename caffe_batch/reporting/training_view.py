"""A run in progress: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from caffe_batch.jobs.metrics import NetTestMetrics
from caffe_batch.reporting.console import PlainTable
from caffe_batch.reporting.loss_range import loss_range
from caffe_batch.sizes import format_size
from caffe_batch.terminal import one_line
from caffe_batch.training.progress import Progress

#: Seconds between two plain lines.
LINE_INTERVAL_S = 10.0

#: Beyond this an estimate in seconds is meaningless, and would soon overflow a timedelta.
_CENTURY_S = 100 * 365.25 * 86400

#: Of more ranks than these, only those with the most memory are shown.
_MOST_RANKS = 4

_BLOCKS = "▁▂▃▄▅▆▇█"
#: The narrowest and widest bar or sparkline in characters, and the gap between two columns.
_LEAST_WIDTH, _MOST_WIDTH, _GAP = 10, 64, 2


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """A series of values as a row of at most ``width`` blocks.

    Each block is the mean of its share of the values; the lowest block is the smallest mean. First
    values that are far above all others are as high as the highest of these. Values that aren't
    finite are left out.

    >>> sparkline([8, 4, 2, 1, 1])
    '█▄▂▁▁'
    """
    finite = [value for value in values if abs(value) < float("inf")]
    columns = min(width, len(finite))
    edges = [len(finite) * column // columns for column in range(columns + 1)] if columns else []
    means = [sum(finite[start:end]) / (end - start) for start, end in pairwise(edges)]
    shown = loss_range(means)
    low, step = shown.low, (shown.high - shown.low) / len(_BLOCKS) or 1.0
    return "".join(_BLOCKS[min(int((mean - low) / step), len(_BLOCKS) - 1)] for mean in means)


def format_scores(scores: Sequence[NetTestMetrics]) -> str:
    """The outputs of a test in one line: ``accuracy 0.981, loss 0.0612``.

    Several test nets are distinguished by a number, ``[1]``, after the name; elements of one output
    by their order.
    """
    several = len({score.test_net for score in scores}) > 1
    return ", ".join(
        f"{one_line(score.output)}{f'[{score.test_net}]' if several else ''} {_value(score)}"
        for score in scores
    )


def _value(score: NetTestMetrics) -> str:
    """The value of a test output; of one with many elements their mean and range."""
    if not score.is_summary:
        return format_number(score.value)
    span = f"{format_number(score.least)} to {format_number(score.most)}"
    return f"{format_number(score.value)} (mean of {score.count:,} values, {span})"


def progress_line(progress: Progress) -> str:
    """The progress in one plain line."""
    parts = [f"update {progress.update:,} of {progress.updates:,}"]
    if progress.loss is not None:
        parts.append(f"loss {format_number(progress.loss)}")
    parts += _numbers(progress)
    if progress.used_bytes is not None:
        parts.append(f"{format_size(progress.used_bytes)} in use")
    if progress.rank_s:
        parts.append(slowest_rank(progress.rank_s))
    if progress.left_s:
        parts.append(f"{format_duration(progress.left_s)} left")
    return ", ".join(parts)


def progress_view(progress: Progress, width: int = 80) -> RenderableType:
    """The progress as a few lines that are redrawn in place.

    Args:
        progress: What to show.
        width: Characters per line; the bar and the sparkline take what the numbers leave.
    """
    if not progress.training:
        return Text("Loading the engine and building the nets ...", style="dim")
    update = f"update {progress.update:,} / {progress.updates:,}"
    loss = f"loss {'-' if progress.loss is None else format_number(progress.loss)}"
    share = f"{progress.update / progress.updates:.0%}"
    left = "" if progress.left_s is None else f"{format_duration(progress.left_s)} left"
    losses = _losses(progress)
    above = loss_range(losses)
    began = f"began at {format_number(above.first)}" if above.above else ""
    numbers = max(len(update), len(loss)) + len(share) + max(len(left), len(began))
    room = min(max(width - numbers - 3 * _GAP, _LEAST_WIDTH), _MOST_WIDTH)
    grid = PlainTable.grid(padding=(0, _GAP, 0, 0))
    grid.add_row(
        Text(update, style="bold"),
        ProgressBar(total=progress.updates, completed=progress.update, width=room),
        share,
        left,
    )
    line = sparkline(losses, room)
    grid.add_row(loss, Text(line, style="cyan", no_wrap=True), "", began)
    lines: list[RenderableType] = [grid, Text(", ".join(_numbers(progress)))]
    if progress.scores:
        at = progress.scores[-1].update
        lines.append(Text(f"test after update {at:,}: {format_scores(progress.scores)}"))
    memory = memory_text(progress)
    if memory:
        lines.append(Text(f"memory {memory}"))
    lines += map(Text, ranks_text(progress))
    return Group(*lines)


class TrainingView:
    """Shows progress; a context manager, and an observer for ``train``.

    Warnings and notes are printed once. On a terminal the rest is redrawn in place; elsewhere
    there is a line every ten seconds, one for each test, and one at the end. If its output goes
    away (the terminal was closed) it falls silent, and the training continues.

    Args:
        console: Where to show it; a
            :class:`~caffe_batch.reporting.console.LastingConsole` if the reader may go away.
        quiet: Whether to show only warnings and notes.
        warnings: What the user should know before the training begins.
    """

    def __init__(
        self, console: Console, *, quiet: bool = False, warnings: Sequence[str] = ()
    ) -> None:
        self._console, self._quiet = console, quiet
        self._warnings = tuple(warnings)
        self._live = Live(console=console, auto_refresh=False) if self._is_live() else None
        self._notes_shown = 0
        self._tested = self._printed = -1
        self._line_at = time.monotonic() + LINE_INTERVAL_S
        self._gone = self._remarked = False

    def __enter__(self) -> TrainingView:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live and not self._gone:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        if self._gone:
            return
        try:
            for warning in self._warnings:
                self._print(one_line(f"warning: {warning}"))
            self._warnings = ()
            for note in progress.notes[self._notes_shown :]:
                self._print(one_line(note))
            self._notes_shown = len(progress.notes)
            if progress.remark and not self._remarked:
                self._print(progress.remark)
            self._remarked = bool(progress.remark)
            if self._live:
                self._live.update(progress_view(progress, self._console.width), refresh=True)
            elif not self._quiet and progress.training:
                self._print_lines(progress)
        except OSError:
            self._gone = True

    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def _print_lines(self, progress: Progress) -> None:
        tested = progress.scores[-1].update if progress.scores else -1
        if tested != self._tested:
            self._tested = tested
            self._print(f"test after update {tested:,}: {format_scores(progress.scores)}")
        now = time.monotonic()
        last = progress.update == progress.updates and self._printed != progress.update
        if now >= self._line_at or last:
            self._line_at, self._printed = now + LINE_INTERVAL_S, progress.update
            self._print(progress_line(progress))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _losses(progress: Progress) -> tuple[float, ...]:
    """The losses so far, always with the first."""
    first, losses = progress.first_loss, progress.losses
    return losses if first is None or losses[:1] == (first,) else (first, *losses)


def _numbers(progress: Progress) -> list[str]:
    parts = []
    if progress.samples_per_s is not None:
        parts.append(f"{progress.samples_per_s:,.0f} samples/s")
    if progress.updates_per_s is not None:
        parts.append(f"{progress.updates_per_s:,.4g} updates/s")
    parts.append(f"learning rate {format_number(progress.learning_rate)}")
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch:,.2f}")
    if progress.stages > 1:
        parts.append(f"stage {progress.stage} of {progress.stages}")
    return parts


def memory_text(progress: Progress) -> str:
    """The memory of the worker and the plan's prediction; empty if neither is known.

    What is in use includes the process itself, which the plan's reserve is for. A prediction for
    another device is told apart.
    """
    parts, used, reserve = [], progress.used_bytes, progress.reserve_bytes
    here = "host" if progress.on_cpu else "device"
    elsewhere = progress.elsewhere_bytes
    if used is not None:
        kind = f" of {here} memory" if elsewhere is not None else ""
        parts.append(f"{format_size(used)}{kind} in use")
    if progress.predicted_bytes is not None:
        kept = f" + {format_size(reserve)} reserve" if reserve else ""
        parts.append(f"{format_size(progress.predicted_bytes)} predicted{kept}")
    if elsewhere is not None and progress.on_cpu is not None:
        meant = "a GPU" if progress.on_cpu else "CPU mode"
        parts.append(f"predicted for {meant}: {format_size(elsewhere)}")
    return "; ".join(parts) if elsewhere is not None else ", ".join(parts)


def ranks_text(progress: Progress) -> list[str]:
    """What is known of several ranks, in a line each."""
    lines = []
    if progress.rank_bytes:
        each = zip(*_shown_ranks(progress.rank_bytes), strict=True)
        lines.append("by rank " + ", ".join(f"{rank}: {format_size(size)}" for rank, size in each))
    if progress.rank_s:
        lines.append(slowest_rank(progress.rank_s))
    return lines


def _shown_ranks(sizes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The ranks that are shown, and what they have: of many, those that have most."""
    ranks = sorted(range(len(sizes)), key=lambda rank: -sizes[rank])[:_MOST_RANKS]
    return sorted(ranks), [sizes[rank] for rank in sorted(ranks)]


def slowest_rank(rank_s: Sequence[float]) -> str:
    """Which rank takes longest for its passes, and how much longer than the fastest one.

    >>> slowest_rank([0.25, 0.5])
    'rank 1 is the slowest: 500 ms an update, 2.00 x the fastest'
    """
    slowest, most, least = rank_s.index(max(rank_s)), max(rank_s), min(rank_s)
    ratio = f", {most / least:.2f} x the fastest" if least > 0 else ""
    return f"rank {slowest} is the slowest: {most * 1000:,.3g} ms an update{ratio}"


def format_number(value: float | None) -> str:
    """A loss or a score."""
    return "not finite" if value is None else f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds))) if seconds < _CENTURY_S else "a century or more"
