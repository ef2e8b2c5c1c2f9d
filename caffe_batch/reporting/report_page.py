"""The report as one HTML page that needs nothing but itself: no network, no other file.

The page's template, style sheet and script are in the folder ``page`` beside this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from caffe_batch import __version__
from caffe_batch.memory import LayerBytes, Part, Prediction
from caffe_batch.reporting.audit_view import audit_rows
from caffe_batch.reporting.memory_plot import COLOURS, LABELS
from caffe_batch.reporting.report_data import ReportedRun
from caffe_batch.sizes import format_size

_PAGE = Path(__file__).with_name("page")

#: Layers that get a bar of their own, the largest; the others share one.
_LAYERS = 24


@dataclass(frozen=True)
class MemoryBar:
    """A layer, or several, in the chart of the memory.

    Attributes:
        name, kind: The layer's name and type.
        bytes: Its memory.
        segments: Colour, label, bytes and share of the longest bar (0 to 100) of each part.
    """

    name: str
    kind: str
    bytes: int
    segments: tuple[tuple[str, str, int, float], ...]


def render_report(runs: Sequence[ReportedRun]) -> str:
    """The page about some runs, at least one."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=format_size, number=_number, count=_count, duration=_duration, when=_when
    )
    return environment.get_template("report.html.j2").render(
        runs=runs,
        style=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),  # noqa: S704  # our own
        script=Markup((_PAGE / "report.js").read_text(encoding="utf-8")),  # noqa: S704
        curves=[run.curves() for run in runs],
        parts=[(COLOURS[part], LABELS[part]) for part in COLOURS],
        audit=audit_rows,
        bars=memory_bars,
        changes=grouped_changes,
        is_known=lambda memory: isinstance(memory, Prediction),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
    )


def memory_bars(prediction: Prediction) -> list[MemoryBar]:
    """The layers in the order of the net; the small ones of a large net in one bar at the end."""
    layers = [layer for layer in prediction.layers if layer.bytes]
    large = sorted(layers, key=lambda layer: layer.bytes, reverse=True)[:_LAYERS]
    names = {id(layer) for layer in large}
    rows = [(_layer_name(layer), layer.type, [layer]) for layer in layers if id(layer) in names]
    others = [layer for layer in layers if id(layer) not in names]
    if others:
        rows.append((f"{len(others)} more layers", "", others))
    longest = max((sum(layer.bytes for layer in own) for _, _, own in rows), default=1)
    return [_bar(name, kind, own, longest) for name, kind, own in rows]


def grouped_changes(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The changes of plan.json, those that are the same in several layers in one row."""
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


def _layer_name(layer: LayerBytes) -> str:
    return layer.name if layer.net == "train" else f"{layer.name} ({layer.net})"


def _bar(name: str, kind: str, layers: Sequence[LayerBytes], longest: int) -> MemoryBar:
    sums = {part: sum(layer.parts.get(part, 0) for layer in layers) for part in COLOURS}
    segments = tuple(
        (COLOURS[part], LABELS[part], size, round(100 * size / longest, 3))
        for part, size in sums.items()
        if size and part is not Part.TEST_NET
    )
    return MemoryBar(name, kind, sum(layer.bytes for layer in layers), segments)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))


def _when(moment: str | None) -> str:
    """``2020-04-12 09:00:00 UTC`` of an ISO time; as it is if it is none."""
    return "-" if moment is None else moment.replace("T", " ").replace("+00:00", " UTC")
