"""A plan on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from caffe_batch.planning.audit.findings import Finding, Verdict
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.split.candidates import Candidate
from caffe_batch.reporting.console import PlainTable
from caffe_batch.reporting.stages_view import stages_view
from caffe_batch.sizes import format_size
from caffe_batch.terminal import one_line

#: How many candidates are shown on each side of the chosen one.
NEIGHBOURS = 3
BAR_WIDTH = 24


def plan_view(plan: Plan) -> RenderableType:
    """The summary, the candidates around the chosen one, the audit, and every change."""
    parts: list[RenderableType] = [Text(plan.summary(), style="bold"), ""]
    parts.append(_candidates(plan))
    if plan.tests and len(plan.candidates) > 1:
        parts.append(Text("The other rows assume the smallest test batches.", style="dim"))
    for note in plan.notes:
        parts += ["", Text(one_line(note))]
    if plan.stages:
        parts += ["", Text("Stages"), stages_view([each.stage for each in plan.stages])]
    parts += ["", Text(one_line(plan.verdict()), style="bold")]
    if plan.findings:
        parts.append(_audit(plan.findings))
    if plan.changes:
        stage = " in the first stage" if plan.stages else ""
        parts += ["", Text(f"What changes{stage}"), _changes(plan)]
    else:
        parts += ["", Text("Nothing changes: the files already have this split.")]
    return Group(*parts)


def _candidates(plan: Plan) -> Table:
    place = plan.candidates.index(plan.chosen)
    first = max(0, place - NEIGHBOURS)
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in ("", "batch_size", "iter_size", "predicted peak"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(f"of {format_size(plan.budget.usable_bytes)} usable", no_wrap=True)
    for candidate in plan.candidates[first : place + NEIGHBOURS + 1]:
        chosen = candidate is plan.chosen
        peak = candidate.predicted_peak_bytes
        table.add_row(
            "->" if chosen else "",
            str(candidate.batch_size),
            str(candidate.iter_size),
            "-" if peak is None else format_size(peak),
            _bar(candidate, plan.budget.usable_bytes),
            style="bold" if chosen else "" if candidate.fits else "dim",
        )
    return table


def _bar(candidate: Candidate, usable_bytes: int) -> Text:
    if candidate.predicted_peak_bytes is None:
        return Text(candidate.refused, style="red")
    share = candidate.predicted_peak_bytes / usable_bytes
    filled = min(BAR_WIDTH, round(share * BAR_WIDTH))
    bar = "#" * filled + "." * (BAR_WIDTH - filled)
    return Text(f"{bar} {share:.0%}", style="green" if candidate.fits else "red")


def _audit(findings: Sequence[Finding]) -> Table:
    """The findings; equal ones of several layers share a row, and bad verdicts stand out."""
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in ("verdict", "cause", "layer", "why"):
        table.add_column(header, overflow="fold")
    rows: dict[tuple[Any, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.verdict, finding.cause, finding.explanation, finding.offer)
        rows.setdefault(key, []).append(finding)
    for (verdict, cause, explanation, offer), equal in rows.items():
        layers = [finding.layer for finding in equal if finding.layer is not None]
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        table.add_row(
            Text(verdict.value, style=_STYLES[verdict]),
            cause.value,
            f"{layers[0]}{more}" if layers else "-",
            f"{explanation} {offer}".strip(),
        )
    return table


_STYLES = {
    Verdict.EXACT: "green",
    Verdict.COMPENSATED: "green",
    Verdict.APPROXIMATE: "yellow",
    Verdict.UNKNOWN: "magenta",
    Verdict.DIFFERENT: "red",
}


def _changes(plan: Plan) -> Table:
    """Every change; equal ones in several layers share a row."""
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in ("file", "field", "from", "to", "why"):
        table.add_column(header, overflow="fold")
    rows: dict[tuple[Any, ...], list[Change]] = {}
    for change in plan.changes:
        alone = change.field if change.layer is None else ""
        key = (change.file, change.path, alone, change.before, change.after, change.reason)
        rows.setdefault(key, []).append(change)
    for first, *others in rows.values():
        table.add_row(
            first.file,
            f"{first.field} (and in {len(others)} more layers)" if others else first.field,
            "-" if first.before is None else str(first.before),
            "removed" if first.after is None else str(first.after),
            first.reason,
        )
    return table
