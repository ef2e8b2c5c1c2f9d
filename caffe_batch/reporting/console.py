"""The console on which tables, progress and notes appear."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from caffe_batch.terminal import behind, one_line, visible


class PlainConsole(Console):
    """A console that prints text verbatim, except what a terminal would act on.

    Layers may be called ``[/conv]`` or ``:fire:``; control characters become visible before rich
    measures the text, so that columns stay columns.

    Args:
        stderr: Write to stderr instead of stdout.
        settings: What else rich's console takes.
    """

    def __init__(self, *, stderr: bool = False, **settings: Any) -> None:
        verbatim = {"highlight": False, "markup": False, "emoji": False}
        stream = settings.pop("file", None) or (sys.stderr if stderr else sys.stdout)
        super().__init__(file=behind(stream), **{**verbatim, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text as rich's own."""
        return super().render_str(visible(text), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything; those that hold text are plain."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text)
            yield Segment(text, segment.style, segment.control)


class PlainTable(Table):
    """A table in which a row of text is one row, whatever a file calls its layers."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row; line feeds and tabs in a cell are written out."""
        super().add_row(*map(_on_one_line, cells), **settings)


def _on_one_line(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, Text):
        return Text(one_line(cell.plain), style=cell.style, no_wrap=cell.no_wrap)
    return one_line(cell) if isinstance(cell, str) else cell


class LastingConsole(PlainConsole):
    """A console that falls silent when its reader is gone, where rich's own ends the program."""

    def on_broken_pipe(self) -> None:
        """Write nothing more."""
        self.quiet = True
