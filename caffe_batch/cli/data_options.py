"""The option for how much of the data is checked, and the progress bar of the check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from caffe_batch.cli.options import section

#: What the library calls the counting of memory.
MEMORY = "memory"

#: The text beside a bar.
_WORDS = {MEMORY: "counting the memory of PyTorch", "data": "data"}

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
    """The library's arguments ``check_data`` and ``progress``.

    A full check of the data shows a bar, and so does counting the memory of PyTorch.
    """
    with progress_bars(("data",) if check_data else ()) as show:
        yield {"check_data": extent(check_data), "progress": show}


@contextmanager
def progress_bars(others: Collection[str] = ()) -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows the progress of something on a terminal, until it is done.

    Args:
        others: Whether to show what isn't the counting of memory: the check of the data.
    """
    bars: list[Any] = []
    tasks: dict[str, Any] = {}

    def show(source: str, done: int, number: int) -> None:
        kind = MEMORY if source == MEMORY else "data"
        if kind != MEMORY and kind not in others:
            return
        if not bars:
            from rich.progress import Progress

            from caffe_batch.reporting.console import PlainConsole

            bars.append(Progress(console=PlainConsole(stderr=True), transient=True))
            bars[0].start()
        if source not in tasks:
            tasks[source] = bars[0].add_task(_WORDS[kind], total=number)
        bars[0].update(tasks[source], completed=done, total=number)

    try:
        yield show
    finally:
        for bar in bars:
            bar.stop()
