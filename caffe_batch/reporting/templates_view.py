"""The table of ``caffe-batch templates list``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from caffe_batch.reporting.console import PlainTable
from caffe_batch.sizes import format_size


def templates_view(templates: Iterable[Mapping[str, Any]]) -> Table:
    """The templates, a row each.

    Args:
        templates: The JSON of each (:meth:`caffe_batch.api.zoo.TemplateSize.json`).
    """
    rows = list(templates)
    sizes = list(dict.fromkeys(size for row in rows for size in row["memory_bytes"]))
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    table.add_column("template", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for size in sizes:
        table.add_column(f"batch {size}", justify="right", no_wrap=True)
    table.add_column("what it is for")
    for row in rows:
        table.add_row(*template_row(row, sizes))
    return table


def template_row(row: Mapping[str, Any], sizes: Sequence[str] = ("1", "32")) -> list[str]:
    """A template's cells: its name, parameters, memory at each batch size, and purpose."""
    return [
        row["name"],
        "" if row["parameters"] is None else _short(row["parameters"]),
        *(_memory(row["memory_bytes"].get(size)) for size in sizes),
        row["summary"],
    ]


def _short(number: int) -> str:
    """A number of parameters in three or four digits.

    >>> _short(25_557_032), _short(53_514), _short(20)
    ('25.6 M', '53.5 k', '20')
    """
    if number < 1_000:
        return str(number)
    return f"{number / 1e6:.1f} M" if number >= 1_000_000 else f"{number / 1e3:.1f} k"


def _memory(peak: int | None) -> str:
    return "" if peak is None else format_size(peak)
