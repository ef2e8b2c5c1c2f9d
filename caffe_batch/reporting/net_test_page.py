"""What a test gave as one self-contained HTML page, with pictures of the worst mistakes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from caffe_batch import __version__
from caffe_batch.experiments.net_test import Judged, Mistake, NetTest
from caffe_batch.reporting.net_test_view import facts, percent
from caffe_batch.reporting.page_templates import PAGE, page_template
from caffe_batch.terminal import visible
from caffe_batch.training.trained import Chosen

#: Up to this many classes the matrix is a table; of more it is a picture.
_TABLE = 30
#: The longest side of a picture on the page, in pixels.
_SIDE = 224
#: The guesses shown with a mistake.
_GUESSES = 3


@cache
def _page() -> Template:
    return page_template("test.html.j2", visible=visible, percent=percent)


@dataclass(frozen=True)
class _Shown:
    """A mistake on the page."""

    title: str
    lines: tuple[str, ...]
    png: str


def render_test(test: NetTest, job: str, chosen: Chosen, data: str | None) -> str:
    """The page about a test.

    Args:
        test: What it gave.
        job: The job's directory.
        chosen: The weights.
        data: The data, if it was other than the job's own.
    """
    style = "".join(
        (PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "data.css", "test.css")
    )
    judged = test.judged
    return _page().render(
        job=job,
        facts=list(facts(test, chosen, data)),
        notes=test.notes,
        judged=judged,
        cells=None if judged is None or len(judged.confusion) > _TABLE else _cells(judged),
        matrix=None if judged is None or len(judged.confusion) <= _TABLE else _matrix(judged),
        mistakes=[] if judged is None else list(_mistakes(judged)),
        style=Markup(style),  # noqa: S704  # our own
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _cells(judged: Judged) -> list[list[tuple[int, float]]]:
    """Each cell of the matrix: its count, and its share of the row."""
    return [
        [(int(count), float(count) / max(1, int(row.sum()))) for count in row]
        for row in judged.confusion
    ]


def _matrix(judged: Judged) -> str:
    """The matrix as a picture, a pixel a cell."""
    import numpy as np

    confusion = judged.confusion
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    dark, light = np.array([114, 48, 8]), np.array([255, 255, 255])  # blue, green, red
    pixels = light + (dark - light) * np.sqrt(shares)[..., None]
    return _uri(np.rint(pixels).astype(np.uint8))


def _mistakes(judged: Judged) -> Iterator[_Shown]:
    from caffe_batch.datasets.pictures import shrunk

    for each in judged.mistakes:
        png = "" if each.pixels is None else _uri(shrunk(each.pixels, _SIDE))
        yield _Shown(each.name or f"record {each.record:,}", tuple(_lines(judged, each)), png)


def _lines(judged: Judged, mistake: Mistake) -> Iterator[str]:
    names = [each.name for each in judged.classes]
    if mistake.scores is None:
        yield f"{percent(mistake.wrong)} of its places are wrong"
        yield f"loss {mistake.loss:.3g}"
        return
    yield f"is {names[mistake.label]} ({percent(float(mistake.scores[mistake.label]))})"
    order = sorted(range(len(names)), key=lambda label: -float(mistake.scores[label]))  # type: ignore[index]
    told = [f"{names[label]} {percent(float(mistake.scores[label]))}" for label in order[:_GUESSES]]
    yield f"taken for {', '.join(told)}"


def _uri(pixels: Any) -> str:
    from caffe_batch.datasets.pictures import encoded

    return f"data:image/png;base64,{base64.b64encode(encoded(pixels, 'png')).decode()}"
