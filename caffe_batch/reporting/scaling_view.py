"""How a plan scales over GPUs, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from caffe_batch.planning.scaling import Scale
from caffe_batch.reporting.console import PlainTable


def scaling_view(scales: Sequence[Scale], planned: int) -> Table:
    """A row for each number of GPUs; the plan's own stands out.

    Args:
        scales: The rows.
        planned: GPUs of the plan.
    """
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in (
        "GPUs", "batch_size", "iter_size", "update", "exchange", "speed-up", "efficiency",
        "exchanged in each pass",
    ):  # fmt: skip
        table.add_column(header, justify="right", no_wrap=True)
    for scale in scales:
        table.add_row(
            f"{scale.gpus:,}",
            f"{scale.batch_size:,}",
            f"{scale.iter_size:,}",
            _time(scale.update_s),
            f"{scale.exchange_share:.1%}",
            f"{scale.speedup:,.2f}",
            f"{scale.speedup / scale.gpus:.0%}",
            _time(scale.each_pass_s),
            style="bold" if scale.gpus == planned else "",
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
