"""A plot of a run: the loss and the outputs of the test nets, against updates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError
from caffe_batch.jobs.metrics import Metrics, NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.reporting.figures import (
    finish_panels,
    new_figure,
    or_nan,
    plain,
    scale_losses,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The smoothed curve is a mean over this share of the records.
_SMOOTHING = 0.02

#: A curve has a colour, and once these are used up, also a dash.
_COLOURS = ("#c1440e", "#3a7d44", "#7b4fa3", "#946b00")
_DASHES = ("-", "--", ":", "-.")

#: More curves than this have their legend beside the panel, in columns of this many rows.
_MOST_INSIDE, _ROWS_BESIDE = 6, 16


def write_loss_plot(metrics: Path, picture: Path, *, title: str) -> None:
    """Draw metrics.jsonl into a PNG file.

    Args:
        metrics: The metrics.jsonl of a training.
        picture: The PNG to write; it is replaced atomically.
        title: The title of the plot.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
        InputError: There is nothing to draw.
    """
    write_figure(draw(list(read_metrics(metrics)), title=title), picture, dpi=120)


def draw(metrics: Sequence[Metrics], *, title: str) -> Figure:
    """The figure: losses at the top, other test outputs (accuracy) below if there are any.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: There is nothing to draw.
    """
    updates = [line for line in metrics if isinstance(line, UpdateMetrics)]
    if not updates:
        raise InputError("no update has been measured yet, so there is no loss to draw")
    tests = _test_curves(metrics)
    losses = {name: lines for name, lines in tests.items() if lines[0].is_loss}
    others = {name: lines for name, lines in tests.items() if not lines[0].is_loss}

    figure = new_figure(8, 6 if others else 4.2)
    panels = figure.subplots(
        2 if others else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 2] if others else [1]
    )[:, 0]
    _draw_losses(panels[0], updates, losses)
    if others:
        _draw_others(panels[1], others)
    finish_panels(panels)
    panels[-1].set_xlabel("update")
    panels[0].set_title(plain(title), loc="left")
    return figure


def smooth(values: Sequence[float], window: int) -> list[float]:
    """A centred moving mean over ``window`` values, fewer at both ends; nan counts as missing.

    >>> smooth([1, 2, 6, 7], 3)
    [1.5, 3.0, 5.0, 6.5]
    """
    half = window // 2
    means = []
    for place in range(len(values)):
        near = values[max(0, place - half) : place + half + 1]
        known = [value for value in near if not math.isnan(value)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means


def _draw_losses(
    panel: Axes, updates: Sequence[UpdateMetrics], tests: dict[str, list[NetTestMetrics]]
) -> None:
    numbers = [line.update for line in updates]
    losses = [or_nan(line.loss) for line in updates]
    window = round(len(losses) * _SMOOTHING)
    if window > 1:
        panel.plot(numbers, losses, color="#9db8d6", linewidth=0.7, label="training, each record")
        panel.plot(
            numbers, smooth(losses, window), color="#1f5a96", linewidth=1.6, label="training, mean"
        )
    else:
        dot = "o" if len(losses) == 1 else None
        panel.plot(numbers, losses, color="#1f5a96", linewidth=1.4, marker=dot, label="training")
    for number, (name, lines) in enumerate(tests.items()):
        _draw_test(panel, f"test: {name}", lines, number)
    of_tests = [[or_nan(line.value) for line in lines] for lines in tests.values()]
    scale_losses(panel, losses, *of_tests)
    panel.set_ylabel("loss")
    _add_legend(panel)


def _draw_others(panel: Axes, tests: dict[str, list[NetTestMetrics]]) -> None:
    for number, (name, lines) in enumerate(tests.items(), start=1):
        _draw_test(panel, f"test: {name} (last {or_nan(lines[-1].value):.4g})", lines, number)
    panel.set_ylabel("accuracy" if list(tests) == ["accuracy"] else "test output")
    _add_legend(panel)


def _add_legend(panel: Axes) -> None:
    """A legend inside; beside the panel if there are many curves."""
    count = len(panel.get_legend_handles_labels()[1])
    if count > _MOST_INSIDE:
        panel.legend(
            frameon=False, fontsize="x-small", ncols=-(-count // _ROWS_BESIDE),
            loc="upper left", bbox_to_anchor=(1.0, 1.0),
        )  # fmt: skip
    else:
        panel.legend(frameon=False)


def _draw_test(panel: Axes, label: str, lines: Sequence[NetTestMetrics], number: int) -> None:
    panel.plot(
        [line.update for line in lines],
        [or_nan(line.value) for line in lines],
        color=_COLOURS[number % len(_COLOURS)],
        linestyle=_DASHES[number // len(_COLOURS) % len(_DASHES)],
        marker="o",
        markersize=3.5,
        linewidth=1.2,
        label=plain(label),
    )


def _test_curves(metrics: Sequence[Metrics]) -> dict[str, list[NetTestMetrics]]:
    """The lines of each test output, by a unique name."""
    lines: dict[tuple[int, int], list[NetTestMetrics]] = defaultdict(list)
    for line in metrics:
        if isinstance(line, NetTestMetrics):
            lines[line.test_net, line.index].append(line)
    names: dict[str, list[NetTestMetrics]] = {}
    for (net, index), curve in sorted(lines.items()):
        name = curve[0].output
        if curve[-1].is_summary:
            name = f"{name} (mean of {curve[-1].count:,})"
        if name in names:
            name = f"{name} (net {net}, output {index})"
        names[name] = curve
    return names
