"""The option that says how much of the data is looked at, and the bar that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

data_option = click.option(
    "--check-data/--no-check-data",
    default=None,
    help="Look at every record of the data for what Caffe would die of, or not at all.  "
    "[default: at a sample]",
)


def extent(check_data: bool | None) -> str:
    """What the library calls it."""
    return "quick" if check_data is None else "all" if check_data else "none"


@contextmanager
def data_progress(check_data: bool | None) -> Iterator[dict[str, Any]]:
    """The arguments ``check_data`` and ``progress`` of the library; a bar shows a complete look."""
    if not check_data:
        yield {"check_data": extent(check_data)}
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(source: str, done: int, records: int) -> None:
            if source not in tasks:
                tasks[source] = bar.add_task("data", total=records)
            bar.update(tasks[source], completed=done)

        yield {"check_data": extent(check_data), "progress": show}
