"""The phases of a schedule as people read them on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from caffe_batch.planning.schedule.growth import Phase


def phases_view(phases: Sequence[Phase]) -> Table:
    """A row for each phase: its epochs, its updates, its batch and rate, and why."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for header in ("epochs", "updates", "effective batch", "iter_size", "learning rate"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for phase in phases:
        end = phase.first_epoch + phase.epochs
        table.add_row(
            f"{float(phase.first_epoch):.6g} - {float(end):.6g}",
            f"{phase.last_update - phase.first_update:,}",
            f"{phase.effective_batch:,}",
            f"{phase.iter_size:,}",
            f"{phase.learning_rate:.6g}",
            phase.reason,
        )
    table.add_row("in all", f"{phases[-1].last_update:,}", style="bold")
    return table
