"""What is in some data as one self-contained HTML page, with pictures of each class."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache

from jinja2 import Template
from markupsafe import Markup

from caffe_batch import __version__
from caffe_batch.datasets import Look, Shown, Viewed
from caffe_batch.reporting.data_view import class_rows, facts
from caffe_batch.reporting.page_templates import PAGE, page_template
from caffe_batch.terminal import visible


@cache
def _page() -> Template:
    return page_template("data.html.j2", png=_data_uri, visible=visible)


def render_data(look: Look) -> str:
    """The page about what :func:`caffe_batch.datasets.look_at` found."""
    style = "".join(
        (PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "data.css")
    )
    return _page().render(
        look=look,
        rows=class_rows(look),
        facts=facts,
        groups=_groups,
        style=Markup(style),  # noqa: S704  # our own
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _groups(look: Look, part: Viewed) -> Iterator[tuple[str, list[Shown]]]:
    """The pictures of each class, by label, with what the class is called."""
    labels = {each.label for each in part.shown}
    for label in sorted(labels, key=lambda own: (own is None, own)):
        name = "" if label is None else look.class_name(label)
        title = "no label" if label is None else name or str(label)
        yield title, [each for each in part.shown if each.label == label]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
