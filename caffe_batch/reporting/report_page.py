"""The report as one self-contained HTML page: it needs no network and no other file.

The page's template, style sheet and script are in the folder ``page`` beside this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from caffe_batch import __version__, engines
from caffe_batch.memory import LayerBytes, Prediction
from caffe_batch.reporting.audit_view import audit_rows
from caffe_batch.reporting.memory_plot import COLOURS, LABELS
from caffe_batch.reporting.net_picture import net_svg
from caffe_batch.reporting.page_templates import PAGE, page_template
from caffe_batch.reporting.report_data import ReportedRun
from caffe_batch.reporting.training_view import memory_text
from caffe_batch.sizes import format_size
from caffe_batch.terminal import visible

#: The number of layers, the largest ones, that get a bar of their own; the others share one.
_LAYERS = 24


@dataclass(frozen=True)
class MemoryBar:
    """One layer, or several together, in the memory chart.

    Attributes:
        name, kind: The layer's name and type.
        bytes: Its memory.
        segments: Colour, label, bytes and percentage of the longest bar for each part; empty for
            several layers, whose sum would be far longer than all other bars.
    """

    name: str
    kind: str
    bytes: int
    segments: tuple[tuple[str, str, int, float], ...]


@cache
def _page() -> Template:
    """The page's template, compiled."""
    return page_template(
        "report.html.j2", finalize=_shown,
        size=format_size, number=_number, count=_count, duration=_duration, when=_when,
        engine=lambda attempt: engines.title(attempt.engine),
    )  # fmt: skip


def _shown(value: object) -> object:
    """What the page shows of a value: of text, nothing that acts on a terminal or an editor."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render_report(runs: Sequence[ReportedRun], refresh_s: int | None = None) -> str:
    """The page about one or more runs.

    Args:
        runs: The runs.
        refresh_s: After how many seconds a browser is to load it again; None for never.
    """
    return _page().render(
        runs=runs,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),  # noqa: S704  # our own
        script=Markup((PAGE / "report.js").read_text(encoding="utf-8")),  # noqa: S704
        curves=[run.curves() for run in runs],
        parts=[(COLOURS[part], LABELS[part]) for part in COLOURS],
        audit=audit_rows,
        bars=memory_bars,
        changes=grouped_changes,
        memory_text=memory_text,
        is_known=lambda memory: isinstance(memory, Prediction),
        picture=lambda drawing: Markup(net_svg(drawing)),  # noqa: S704  # its text is escaped
        refresh_s=refresh_s,
        counted=all(stage.effective_batch for run in runs for stage in run.stages),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
    )


def memory_bars(prediction: Prediction) -> list[MemoryBar]:
    """The largest layers in the order of the net; all others of a large net share one bar."""
    layers = [layer for layer in prediction.layers if layer.bytes]
    large = sorted(layers, key=lambda layer: layer.bytes, reverse=True)[:_LAYERS]
    shown = {id(layer) for layer in large}
    bars = [_bar(layer, large[0].bytes) for layer in layers if id(layer) in shown]
    rest = [layer.bytes for layer in layers if id(layer) not in shown]
    if rest:
        bars.append(MemoryBar(f"{len(rest)} smaller layers", "", sum(rest), ()))
    return bars


def grouped_changes(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The changes of plan.json; equal ones in several layers share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for change in changes:
        key = tuple(str(change.get(name)) for name in ("file", "from", "to", "reason"))
        rows.setdefault(key, []).append(str(change.get("field")))
    return [
        {
            "file": file,
            "field": fields[0] + (f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""),
            "from": before,
            "to": after,
            "reason": reason,
        }
        for (file, before, after, reason), fields in rows.items()
    ]


def _bar(layer: LayerBytes, longest: int) -> MemoryBar:
    segments = tuple(
        (COLOURS[part], LABELS[part], layer.parts[part], 100 * layer.parts[part] / longest)
        for part in COLOURS
        if layer.parts.get(part)
    )
    name = layer.name if layer.net == "train" else f"{layer.name} ({layer.net})"
    return MemoryBar(name, layer.type, layer.bytes, segments)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _when(moment: str | None) -> str:
    """An ISO time as ``2020-04-12 09:00:00 UTC``; other text unchanged."""
    return "-" if moment is None else moment.replace("T", " ").replace("+00:00", " UTC")
