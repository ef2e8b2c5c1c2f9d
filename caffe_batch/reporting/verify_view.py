"""The result of `verify` on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from caffe_batch.experiments.verification import (
    MARGIN,
    TOLERANCE,
    Difference,
    Errors,
    ParameterErrors,
    Verification,
    judge,
)
from caffe_batch.reporting.console import PlainTable
from caffe_batch.terminal import one_line

_STATISTICS = ("mean", "variance")


def verify_view(found: Verification) -> RenderableType:
    """The verdict, the errors of each parameter, the loss, and where the samples came from."""
    verdict = judge(found)
    style = "red" if not verdict.held else "green" if found.agrees else "yellow"
    parts: list[RenderableType] = [Text(f"{verdict.sentence}.", style=f"bold {style}"), ""]
    parts.append(_table(found))
    if any(row.vanishing for row in found.parameters):
        parts.append(Text("* Its gradient is nothing but rounding, so its weights aren't judged."))
    parts += ["", Text(_loss(found))]
    if found.diverges:
        parts.append(Text("The training itself diverges: try a lower base_lr to compare weights."))
    elif found.tolerance > TOLERANCE:
        parts.append(
            Text(
                f"control: gradients perturbed by {TOLERANCE:g} cause an error of "
                f"{found.tolerance / MARGIN:.1e} in {found.updates} updates of the whole batch; "
                f"weights and loss may differ by {MARGIN} times that."
            )
        )
    parts += [Text(one_line(line)) for line in _draws(found)]
    if found.plain_refused:
        parts.append(Text(f"Without the changes Caffe refuses the net: {found.plain_refused}"))
    made = [f"samples of layer {use.layer!r}: made up, as {use.why}"
            for use in found.data if use.made]  # fmt: skip
    parts += [Text(one_line(f"note: {line}")) for line in (*found.notes, *made)]
    if found.own is not None:
        parts += ["", Text("The files' own split", style="dim"), verify_view(found.own)]
    return Group(*parts)


def _table(found: Verification) -> Table:
    plain = found.weights.plain is not None
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("relative error of", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for header in ("gradient", f"weights after {found.updates} updates"):
        table.add_column(header, justify="right", no_wrap=True)
        if plain:
            table.add_column("without the changes", justify="right", no_wrap=True)
    for row in found.parameters:
        _add(table, found, row, f"{row.layer}[{row.index}]{' *' if row.vanishing else ''}")
    for row in found.statistics:
        _add(table, found, row, f"{row.layer}, average {_STATISTICS[row.index]}")
    return table


def _add(table: Table, found: Verification, row: ParameterErrors, name: str) -> None:
    plain = found.weights.plain is not None
    weights_limit = float("inf") if row.vanishing else max(found.tolerance, row.tolerance)
    table.add_row(
        name,
        "x".join(map(str, row.shape)) or "1",
        *_cells(row.gradient, row.tolerance, plain=plain),
        *_cells(row.weights, weights_limit, plain=plain),
    )


def _cells(errors: Errors | None, limit: float, *, plain: bool) -> list[Text]:
    values = [errors.compensated, errors.plain] if errors else [None, None]
    return [
        Text("-")
        if value is None
        else Text(f"{value:.1e}" if value else "0", style="" if value <= limit else "yellow")
        for value in (values if plain else values[:1])
    ]


def _draws(found: Verification) -> Iterator[str]:
    """How draws are held equal, and their effect where they aren't."""
    if found.held:
        yield f"draws held equal: {'; '.join(found.held)}."
    if found.draws is not None:
        again, apart = found.draws.again, found.draws.apart
        yield (
            "effect of the draws alone: with another seed the whole batch differs from itself by "
            f"{_sizes(again)}; micro-batches differ from the whole batch by {_sizes(apart)}."
        )


def _sizes(difference: Difference) -> str:
    return (
        f"{difference.gradient:.1e} (gradient), {difference.weights:.1e} (weights), "
        f"{difference.loss:.1e} (loss)"
    )


def _loss(found: Verification) -> str:
    losses, errors = found.losses, found.losses.errors
    text = (
        f"smoothed loss: {losses.whole:.7g} with the whole batch, {losses.compensated:.7g} in "
        f"micro-batches (error {errors.compensated:.1e})"
    )
    if losses.plain is not None:
        text += f", {losses.plain:.7g} without the changes (error {errors.plain:.1e})"
    if losses.rounding > TOLERANCE:
        text += (
            f"; adding up {losses.terms:,} terms in single precision can make an error of "
            f"{losses.rounding:.1e}"
        )
    return text
