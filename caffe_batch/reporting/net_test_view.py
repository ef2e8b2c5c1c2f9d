"""What a test gave, in lines and a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from caffe_batch.experiments.net_test import Judged, NetTest
from caffe_batch.reporting.console import PlainTable
from caffe_batch.training.trained import Chosen

#: How many classes the table lists; of more it lists those recognised worst.
_ROWS = 40
#: How many confusions are listed.
_CONFUSIONS = 5


def percent(share: float | None) -> str:
    """A share as people read it.

    >>> percent(0.98765), percent(None)
    ('98.77 %', '-')
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def facts(test: NetTest, chosen: Chosen, data: str | None) -> Iterator[tuple[str, str]]:
    """What was tested and what it scored, as title and text."""
    update = "" if chosen.update is None else f", after {chosen.update:,} updates"
    yield "weights", f"{chosen.weights.name}{update}"
    yield "data", f"{test.samples:,} samples{f' of {data}' if data else ''}"
    judged = test.judged
    if judged is not None:
        for k, share in judged.top_k.items():
            yield "accuracy" if k == 1 else f"top {k}", percent(share)
        if judged.is_map:
            yield "mean overlap", percent(judged.mean_overlap)
        yield "cross-entropy", f"{judged.loss:.4g}"
    for name, values in test.outputs.items():
        shown = " ".join(f"{value:.4g}" for value in values[:8])
        yield f"output {name}", shown + (" ..." if len(values) > 8 else "")


def confusions(judged: Judged) -> Iterator[str]:
    """The classes most often taken for others, in sentences."""
    import numpy as np

    off = judged.confusion.copy()
    np.fill_diagonal(off, 0)
    names = [each.name for each in judged.classes]
    for flat in np.argsort(-off, axis=None, kind="stable")[:_CONFUSIONS]:
        row, column = divmod(int(flat), len(names))
        number = int(off[row, column])
        if number:
            records = f"{number:,} record{'s' if number > 1 else ''}"
            yield f"{names[row]} was taken for {names[column]} in {records}"


def score_table(judged: Judged) -> Table:
    """Each class: its records, and how it was recognised."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", justify="right")
    table.add_column("class")
    for title in ("records", "recognised", "precision", *(["overlap"] if judged.is_map else [])):
        table.add_column(title, justify="right")
    rows = list(judged.classes)
    if len(rows) > _ROWS:
        rows = sorted(rows, key=lambda each: 2.0 if each.recall is None else each.recall)[:_ROWS]
    for each in rows:
        overlap = [percent(each.overlap)] if judged.is_map else []
        table.add_row(
            str(each.label), each.name, f"{each.records:,}", percent(each.recall),
            percent(each.precision), *overlap,
        )  # fmt: skip
    if len(rows) < len(judged.classes):
        rest = len(judged.classes) - len(rows)
        table.add_row("", f"... {rest:,} that are recognised better ...")
    return table
