"""HTML for notebooks: a plan, a memory prediction and the outcome of a training.

It has colours of its own only for good and bad, and takes the others from the page, so that it can
be read on a light and on a dark page. It needs no script and no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobState
from caffe_batch.memory.base import Prediction
from caffe_batch.planning.audit.findings import Verdict
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.split.candidates import Candidate
from caffe_batch.reporting.training_view import format_scores
from caffe_batch.sizes import format_size
from caffe_batch.training.outcome import Outcome

#: How many candidates are shown on each side of the chosen one, and how many layers in all.
NEIGHBOURS, LAYERS = 3, 10

#: Readable on white and on black.
_GOOD, _FAIR, _BAD = "#2c9a5b", "#b7791f", "#d9534f"

_STYLE = f"""<style>
.cb {{ font: 13px/1.45 system-ui, sans-serif; max-width: 60em; color: inherit; }}
.cb table {{ border-collapse: collapse; margin: .5em 0; background: none; border: none; }}
.cb th, .cb td {{ padding: .15em .8em .15em 0; text-align: left; vertical-align: top;
  border: none; background: none; color: inherit; white-space: normal; }}
.cb th {{ font-weight: normal; opacity: .7; }}
.cb td.n, .cb th.n {{ text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }}
.cb tr.no {{ opacity: .6; }}
.cb tr.it td {{ font-weight: bold; }}
.cb .bar {{ width: 14em; height: .8em; margin-top: .3em; background: rgba(128, 128, 128, .25); }}
.cb .bar i {{ display: block; height: 100%; }}
.cb .good {{ color: {_GOOD}; }} .cb .fair {{ color: {_FAIR}; }} .cb .bad {{ color: {_BAD}; }}
.cb p {{ margin: .4em 0; }} .cb summary {{ cursor: pointer; }}
.cb svg {{ display: block; margin: .5em 0; }}
</style>"""

_VERDICT_STYLES = {
    Verdict.EXACT: "good",
    Verdict.COMPENSATED: "good",
    Verdict.APPROXIMATE: "fair",
    Verdict.UNKNOWN: "fair",
    Verdict.DIFFERENT: "bad",
}


def plan_html(plan: Plan) -> str:
    """The split with its neighbours and the verdict; the audit and the changes can be unfolded."""
    place = plan.candidates.index(plan.chosen)
    shown = plan.candidates[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]
    usable = plan.budget.usable_bytes
    rows = [_candidate(each, usable, chosen=each is plan.chosen) for each in shown]
    head = _head(
        ("batch_size", "n"), ("iter_size", "n"), ("predicted peak", "n"),
        (f"of {format_size(usable)} usable", ""), ("", "n"),
    )  # fmt: skip
    findings = (
        f'<tr><td class="{_VERDICT_STYLES[each.verdict]}">{escape(each.verdict.value)}</td>'
        f"{_cells(each.cause.value, each.layer or '-')}"
        f"{_cells(f'{each.explanation} {each.offer}'.strip())}</tr>"
        for each in plan.findings
    )
    changes = (
        f"<tr>{_cells(each.file, each.field, _value(each.before, '-'))}"
        f"{_cells(_value(each.after, 'removed'), each.reason)}</tr>"
        for each in plan.changes
    )
    audit_head = _head(*((name, "") for name in ("verdict", "cause", "layer", "why")))
    change_head = _head(*((name, "") for name in ("file", "field", "from", "to", "why")))
    return _piece(
        f"<p><b>{escape(plan.summary())}</b></p>",
        _table(head, rows),
        *(f"<p>{escape(note)}</p>" for note in plan.notes),
        f"<p>{escape(plan.verdict())}</p>",
        _unfold(f"The audit: {len(plan.findings)}", audit_head, findings) if plan.findings else "",
        _unfold(f"What changes: {len(plan.changes)}", change_head, changes) if plan.changes else "",
    )


def memory_html(prediction: Prediction, title: str) -> str:
    """The memory by part, and the layers that take most of it.

    Args:
        prediction: The memory.
        title: A title, such as the name of the net.
    """
    peak = prediction.peak_bytes or 1
    parts = (
        f'<tr>{_cells(part.key.replace("_", " "))}<td class="n">{format_size(size)}</td>'
        f"<td>{_bar(size / peak, 'currentColor')}</td></tr>"
        for part, size in prediction.parts.items()
        if size
    )
    largest = sorted(prediction.layers, key=lambda layer: -layer.bytes)
    layers = (
        f'<tr>{_cells(each.name, each.type, each.net)}<td class="n">{format_size(each.bytes)}</td>'
        f"<td>{_bar(each.bytes / peak, 'currentColor')}</td></tr>"
        for each in largest[:LAYERS]
    )
    head = _head(("layer", ""), ("type", ""), ("net", ""), ("memory", "n"), ("", ""))
    unknown = ", ".join(prediction.unknown_layers)
    return _piece(
        f"<p><b>{escape(title)}</b></p>",
        f"<p>This is a lower bound: not all memory of {escape(unknown)} is known.</p>"
        if unknown
        else "",
        _table(_head(("part", ""), ("memory", "n"), ("", "")), parts),
        _unfold(f"The largest layers: {min(LAYERS, len(largest))} of {len(largest)}", head, layers),
    )


def outcome_html(outcome: Outcome, job: JobDirectory) -> str:
    """How a training ended, with the curve of its loss."""
    style = "good" if outcome.state is JobState.FINISHED else "fair"
    losses = [
        line.loss
        for line in read_metrics(job.metrics)
        if isinstance(line, UpdateMetrics) and line.loss is not None and math.isfinite(line.loss)
    ]
    test = f"<p>test: {escape(format_scores(outcome.scores))}</p>" if outcome.scores else ""
    return _piece(
        f'<p><b class="{style}">{outcome.state.value.capitalize()}</b>: '
        f"{outcome.update:,} of {outcome.updates:,} updates.</p>",
        _curve(losses),
        test,
        f"<p>plan: {escape(job.read_plan().summary)}<br>files: {escape(str(job.path))}</p>",
    )


def _candidate(candidate: Candidate, usable_bytes: int, *, chosen: bool) -> str:
    peak = candidate.predicted_peak_bytes
    style = "it" if chosen else "" if candidate.fits else "no"
    numbers = (
        candidate.batch_size,
        candidate.iter_size,
        "-" if peak is None else format_size(peak),
    )
    cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
    if peak is None:
        return f'<tr class="{style}">{cells}<td class="bad">{escape(candidate.refused)}</td></tr>'
    share = peak / usable_bytes
    bar = _bar(share, _GOOD if candidate.fits else _BAD)
    return f'<tr class="{style}">{cells}<td>{bar}</td><td class="n">{share:.0%}</td></tr>'


def _curve(losses: Sequence[float]) -> str:
    """The losses as a line; empty if there are fewer than two."""
    if len(losses) < 2:
        return ""
    width, height, edge = 480, 120, 4
    every = -(-len(losses) // width)
    shown = losses[::every]
    low, high = min(shown), max(shown)
    points = " ".join(
        f"{edge + (width - 2 * edge) * place / max(len(shown) - 1, 1):.1f},"
        f"{edge + (height - 2 * edge) * (high - loss) / ((high - low) or 1):.1f}"
        for place, loss in enumerate(shown)
    )
    label = f"loss {losses[0]:.4g} to {losses[-1]:.4g}"
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{label}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f"<p>{label}</p>"
    )


def _piece(*parts: str) -> str:
    return f'{_STYLE}<div class="cb">{"".join(parts)}</div>'


def _table(head: str, rows: Iterable[str]) -> str:
    return f"<table>{head}{''.join(rows)}</table>"


def _unfold(title: str, head: str, rows: Iterable[str]) -> str:
    return f"<details><summary>{escape(title)}</summary>{_table(head, rows)}</details>"


def _head(*columns: tuple[str, str]) -> str:
    cells = (f'<th class="{style}">{escape(name)}</th>' for name, style in columns)
    return f"<tr>{''.join(cells)}</tr>"


def _cells(*texts: str) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _value(value: object, none: str) -> str:
    return none if value is None else str(value)


def _bar(share: float, colour: str) -> str:
    width = min(max(share, 0), 1)
    return f'<div class="bar"><i style="width: {width:.1%}; background: {colour}"></i></div>'
