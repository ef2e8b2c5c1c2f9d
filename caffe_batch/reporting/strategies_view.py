"""The strategies for small batches on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from caffe_batch.planning.strategies.strategies import Strategies
from caffe_batch.planning.strategies.strategy import Strategy
from caffe_batch.reporting.console import PlainTable
from caffe_batch.sizes import format_size


def strategies_view(found: Strategies) -> RenderableType:
    """The recipe, a row for each strategy that is possible, and why the others aren't."""
    parts: list[RenderableType] = [Text(_recipe(found), style="bold"), "", _table(found)]
    missing = [way for way in found.ways if way.plan is None]
    if missing:
        parts += ["", Text("Not possible"), _missing(missing)]
    return Group(*parts)


def _recipe(found: Strategies) -> str:
    setting = found.setting
    full, usable = setting.full_batch_bytes, setting.budget.usable_bytes
    takes = "Caffe refuses it in one pass"
    if full is not None:
        takes = f"{format_size(full)} in one pass, of {format_size(usable)} usable"
    return (
        f"The recipe: {setting.batch} samples per update, rate {setting.learning_rate:g}, "
        f"momentum {setting.momentum:g}: {takes}"
    )


def _table(found: Strategies) -> Table:
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    for header in ("batch", "rate", "momentum", "updates/epoch", "memory", "noise"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("what to know", overflow="fold")
    for way in found.ways:
        plan = way.plan
        if plan is None:
            continue
        where = " (CPU)" if plan.mode == "cpu" else ""
        table.add_row(
            way.name,
            f"{plan.batch_size} x {plan.iter_size}",
            f"{way.learning_rate:g}",
            f"{way.momentum:g}",
            "-" if way.updates_per_epoch is None else f"{way.updates_per_epoch:.4g}",
            f"{format_size(plan.predicted_peak_bytes)}{where}",
            "-" if way.noise is None else f"x {way.noise:.3g}",
            " ".join([f"{way.title}.", *_remarks(way)]),
        )
    return table


def _remarks(way: Strategy) -> list[str]:
    accumulates = way.plan is not None and way.plan.iter_size > 1
    return [*([way.plan.verdict()] if way.plan and accumulates else []), *way.warnings]


def _missing(ways: list[Strategy]) -> Table:
    table = PlainTable(box=None, show_header=False, pad_edge=False)
    for way in ways:
        table.add_row(way.name, f"{way.title}: {way.why_not}.")
    return table
