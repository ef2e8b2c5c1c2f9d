"""The result of `verify --against` on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from caffe_batch.experiments.engine_verification import (
    FACTOR,
    ArrayErrors,
    EngineErrors,
    EngineLosses,
    EngineVerification,
)
from caffe_batch.reporting.console import PlainTable
from caffe_batch.terminal import one_line

_STATISTICS = ("mean", "variance")


def engines_view(found: EngineVerification) -> RenderableType:
    """The verdict, the errors of each parameter on both engines, the loss, and what was held."""
    verdict = found.judgement
    style = "green" if verdict.held else "red"
    parts: list[RenderableType] = [
        Text(one_line(f"{verdict.sentence}."), style=f"bold {style}"),
        "",
    ]
    parts.append(_table(found))
    if any(row.vanishing for row in found.parameters):
        parts.append(Text("* Its gradient is nothing but rounding, so its weights aren't judged."))
    parts.append("")
    parts += [Text(one_line(line)) for line in _words(found)]
    return Group(*parts)


def _words(found: EngineVerification) -> Iterator[str]:
    yield f"loss of the first update: {_loss(found, found.first_loss)}"
    if found.diverges:
        yield "The training itself diverges: try a lower base_lr to compare weights."
    else:
        yield f"smoothed loss: {_loss(found, found.loss)}"
    moved = ", ".join(f"{name} {each.control:.1e}" for name, each in found.judged.items())
    yield (
        f"errors are against double precision; control: rounding alone moves {moved} there, and "
        f"{FACTOR} times that is allowed, at least 1e-05."
    )
    if found.held:
        yield f"draws held equal: {'; '.join(found.held)}."
    for each in found.findings:
        layer = f" ({each.layer})" if each.layer else ""
        yield f"audit: {each.cause.value}{layer} {each.verdict.value}: {each.explanation}"
    yield from (f"note: {each}" for each in found.notes)
    for use in found.data:
        if use.made:
            yield f"note: samples of layer {use.layer!r}: made up, as {use.why}"


def _loss(found: EngineVerification, losses: EngineLosses) -> str:
    return ", ".join(
        f"{value:.7g} in {title} (error {error:.1e})"
        for title, value, error in zip(
            found.titles, losses.engines, losses.errors.engines, strict=True
        )
    )


def _table(found: EngineVerification) -> Table:
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("relative error of", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for what in ("gradient", "weights"):
        for title in found.titles:
            table.add_column(f"{what}, {title}", justify="right", no_wrap=True)
        table.add_column("apart", justify="right", no_wrap=True)
    for row in found.parameters:
        name = f"{row.layer}[{row.index}]{' *' if row.vanishing else ''}"
        _add(table, found, row, name, found.weights.allowed)
    for row in found.statistics:
        name = f"{row.layer}, average {_STATISTICS[row.index]}"
        _add(table, found, row, name, found.averages.allowed)
    return table


def _add(
    table: Table, found: EngineVerification, row: ArrayErrors, name: str, allowed: float
) -> None:
    limit = float("inf") if row.vanishing else allowed
    table.add_row(
        one_line(name),
        "x".join(map(str, row.shape)) or "1",
        *_cells(row.gradient, found.gradient.allowed),
        *_cells(row.weights, limit),
    )


def _cells(errors: EngineErrors | None, limit: float) -> list[Text]:
    if errors is None:
        return [Text("-")] * 3
    styles = ["" if error <= limit else "red" for error in errors.engines]
    return [
        Text(f"{error:.1e}" if error else "0", style=style)
        for error, style in zip((*errors.engines, errors.apart), (*styles, ""), strict=True)
    ]
