"""The stages of a schedule on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from caffe_batch.planning.schedule.growth import Stage
from caffe_batch.reporting.console import PlainTable


def stages_view(stages: Sequence[Stage]) -> Table:
    """A row for each stage: its epochs, updates, batch and learning rate, and the reason for it."""
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in ("epochs", "updates", "effective batch", "iter_size", "learning rate"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for stage in stages:
        end = stage.first_epoch + stage.epochs
        table.add_row(
            f"{float(stage.first_epoch):.6g} - {float(end):.6g}",
            f"{stage.last_update - stage.first_update:,}",
            f"{stage.effective_batch:,}",
            f"{stage.iter_size:,}",
            f"{stage.learning_rate:.6g}",
            stage.reason,
        )
    table.add_row("total", f"{stages[-1].last_update:,}", style="bold")
    return table
