"""A comparison on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from caffe_batch.experiments.standings import Comparison, SeedRun, Spread, Standing
from caffe_batch.reporting.console import PlainTable


def compare_view(comparison: Comparison) -> RenderableType:
    """A row for each strategy: the last test of its trainings, mean and standard deviation."""
    number = len(comparison.seeds)
    spread = ", mean ± standard deviation over the seeds" if number > 1 else ""
    title = f"The last test of {number} training{'s' if number > 1 else ''} each{spread}"
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for header in ("batch", "rate", "momentum", "noise"):
        table.add_column(header, justify="right", no_wrap=True)
    for name in (comparison.score_name, comparison.loss_name):
        if name is not None:
            table.add_column(name, justify="right", no_wrap=True)
    for header in ("samples", "seconds"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for standing in comparison.standings:
        table.add_row(*_row(comparison, standing))
    return Group(Text(title, style="bold"), "", table)


def run_line(run: SeedRun) -> str:
    """The result of one training."""
    if run.failure:
        return f"failed: {run.failure}"
    last = run.points[-1] if run.points else None
    if last is None:
        return "finished, without a test"
    values = [f"{name} {value:.4g}" for name, value in
              (("score", last.score), ("loss", last.loss)) if value is not None]  # fmt: skip
    return ", ".join([*values, f"{last.seconds:.3g} s", *(["diverged"] if run.diverged else [])])


def spread_text(spread: Spread) -> str:
    """A mean and its spread: ``0.9889 ± 0.0021``."""
    if spread.mean is None:
        return "-"
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f" ± {spread.sd:.4f}")


def _row(comparison: Comparison, standing: Standing) -> list[str]:
    facts, points = standing.facts, standing.points()
    last = points[-1] if points else ()
    noise = facts.noise_relative
    cells = [
        standing.name,
        f"{facts.batch_size} x {facts.iter_size}",
        f"{facts.learning_rate:g}",
        f"{facts.momentum:g}",
        "-" if noise is None else f"x {noise:.3g}",
    ]
    if comparison.score_name is not None:
        cells.append(spread_text(Spread.of(point.score for point in last)))
    if comparison.loss_name is not None:
        cells.append(spread_text(Spread.of(point.loss for point in last)))
    seconds = Spread.of(point.seconds for point in last).mean
    cells.append(f"{last[0].samples:,}" if last else "-")
    cells.append("-" if seconds is None else f"{seconds:.3g}")
    return [*cells, _remark(standing)]


def _remark(standing: Standing) -> str:
    remarks = [
        f"{number} of {len(standing.runs)} {what}"
        for number, what in ((standing.diverged, "diverged"), (standing.failed, "failed"))
        if number
    ]
    reasons = list(dict.fromkeys(run.failure for run in standing.runs if run.failure))[:1]
    return ", ".join([*remarks, *reasons])
