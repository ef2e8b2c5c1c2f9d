from __future__ import annotations

import io

from rich.live import Live
from rich.table import Table
from rich.text import Text

from caffe_batch.reporting.console import PlainConsole, PlainTable

TITLE = "\x1b]0;title\x07"
SHOWN = "\\u001b]0;title\\u0007"
#: rich's own Text leaves the bell out.
IN_TEXT = "\\u001b]0;title"


def test_columns_stay_columns() -> None:
    file = io.StringIO()
    table = Table(box=None)
    table.add_row(TITLE, "|")
    table.add_row("conv1", "|")
    PlainConsole(file=file, width=60).print(table)
    rows = [line for line in file.getvalue().splitlines() if line.strip()]
    assert rows[0].startswith(f" {SHOWN} ")
    assert len({row.index("|") for row in rows}) == 1


def test_a_row_is_a_row() -> None:
    file = io.StringIO()
    table = PlainTable("layer", "sum", box=None, pad_edge=False)
    table.add_row("conv1\ntotal\t9 GiB", Text("1\n2", style="red"))
    PlainConsole(file=file, width=60).print(table, soft_wrap=True)
    rows = [line.split() for line in file.getvalue().splitlines()]
    assert rows == [["layer", "sum"], [r"conv1\ntotal\t9", "GiB", r"1\n2"]]


def test_text_in_any_form_is_plain_and_verbatim() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=80)
    console.print(TITLE, Text(f"[/conv] :fire: {TITLE}"), "[/conv] :fire:")
    words = [SHOWN, "[/conv]", ":fire:", IN_TEXT, "[/conv]", ":fire:"]
    assert file.getvalue().split() == words


def test_a_live_display_still_moves_the_cursor() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=60, force_terminal=True, _environ={"TERM": "xterm"})
    with Live(console=console, auto_refresh=False) as live:
        live.update(Text(f"{TITLE}\ntwo", style="bold"), refresh=True)
        live.update(Text(f"{TITLE}\ntwo", style="bold"), refresh=True)
    assert IN_TEXT in file.getvalue()
    assert "\x1b]" not in file.getvalue()
    assert "\x1b[1A" in file.getvalue()  # up one line
    assert "\x1b[1m" in file.getvalue()
