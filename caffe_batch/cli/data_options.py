"""The option for how much of the data is checked, and the progress bar of the check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from caffe_batch.cli.options import section

data_option = section("Data")(
    "--check-data/--no-check-data",
    default=None,
    help="Check every record of the data for what would make Caffe fail, or check none.  "
    "[default: check a sample]",
)


def extent(check_data: bool | None) -> str:
    """The library's name for the choice."""
    return "quick" if check_data is None else "all" if check_data else "none"


@contextmanager
def data_progress(check_data: bool | None) -> Iterator[dict[str, Any]]:
    """The library's arguments ``check_data`` and ``progress``; a full check shows a bar."""
    if not check_data:
        yield {"check_data": extent(check_data)}
        return
    from rich.progress import Progress

    from caffe_batch.reporting.console import PlainConsole

    with Progress(console=PlainConsole(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(source: str, done: int, records: int) -> None:
            if source not in tasks:
                tasks[source] = bar.add_task("data", total=records)
            bar.update(tasks[source], completed=done)

        yield {"check_data": extent(check_data), "progress": show}
