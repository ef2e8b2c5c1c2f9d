"""The figures of a report as PNG and SVG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.memory import Prediction
from caffe_batch.reporting import memory_plot
from caffe_batch.reporting.figures import (
    finish_panels,
    new_figure,
    or_nan,
    plain,
    scale_losses,
    write_figure,
)
from caffe_batch.reporting.loss_plot import smooth
from caffe_batch.reporting.report_data import ReportedRun, TestCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One a run, as on the page; dashes tell the curves of a run apart.
_COLOURS = ("#1f5fa8", "#c1440e", "#2e7d4f", "#7b4fa3", "#946b00", "#b5305f")
_DASHES = ("-", "--", ":", "-.")

#: As on the page: the mean is over this share of the records.
_SMOOTHING = 0.02


def write_figures(runs: Sequence[ReportedRun], folder: Path) -> list[Path]:
    """Draw loss, tests and schedule of all runs, and the memory of each, into ``folder``.

    Args:
        runs: The runs; each figure shows all of them together.
        folder: Created if it doesn't exist.

    Returns:
        The files written, a PNG and an SVG for each figure.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
    """
    figures: dict[str, Figure] = {}
    trained = [run for run in runs if run.updates]
    if trained:
        figures["loss"] = _draw_losses(trained)
        figures["schedule"] = _draw_schedule(trained)
    if any(_outputs(run) for run in runs):
        figures["tests"] = _draw_outputs(runs)
    for number, run in enumerate(runs, start=1):
        size = run.plan.batch_size
        if isinstance(run.memory, Prediction) and size is not None:
            name = "memory" if len(runs) == 1 else f"memory-{number}"
            figures[name] = _draw_memory(run, run.memory, size)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            path = folder / f"{name}.{ending}"
            write_figure(figure, path, dpi=140)
            written.append(path)
    return written


def _draw_losses(runs: Sequence[ReportedRun]) -> Figure:
    figure, (panel,) = _panels(1)
    every: list[list[float]] = []
    for colour, run in zip(_cycle(_COLOURS, len(runs)), runs, strict=True):
        x = [line.update for line in run.updates]
        losses = [or_nan(line.loss) for line in run.updates]
        mean = smooth(losses, max(1, round(len(losses) * _SMOOTHING)))
        every.append(losses)
        panel.plot(x, losses, color=colour, linewidth=0.6, alpha=0.3)
        panel.plot(x, mean, color=colour, linewidth=1.6, label=_label(runs, run, "training loss"))
        own = [curve for curve in run.tests if curve.is_loss]
        _draw_tests(panel, runs, run, own, colour, _DASHES[1:])
    scale_losses(panel, *every)
    panel.set_ylabel("loss")
    return _finished(figure, [panel])


def _draw_outputs(runs: Sequence[ReportedRun]) -> Figure:
    figure, (panel,) = _panels(1)
    for colour, run in zip(_cycle(_COLOURS, len(runs)), runs, strict=True):
        _draw_tests(panel, runs, run, _outputs(run), colour, _DASHES)
    panel.set_ylabel("test output")
    return _finished(figure, [panel])


def _draw_schedule(runs: Sequence[ReportedRun]) -> Figure:
    counted = all(run.plan.effective_batch for run in runs)
    figure, panels = _panels(2 if counted else 1)
    for colour, run in zip(_cycle(_COLOURS, len(runs)), runs, strict=True):
        x = [line.update for line in run.updates]
        rates = [line.learning_rate for line in run.updates]
        planned = run.plan.effective_batch
        batches = [line.effective_batch or planned or 0 for line in run.updates]
        panels[0].step(x, rates, color=colour, where="post", label=plain(run.name))
        if counted:
            panels[1].step(x, batches, color=colour, where="post", label=plain(run.name))
    for panel, label in zip(panels, ("learning rate", "effective batch"), strict=False):
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
    return _finished(figure, panels)


def _draw_memory(run: ReportedRun, memory: Prediction, size: int) -> Figure:
    curve = {
        candidate.batch_size: candidate.predicted_peak_bytes
        for candidate in run.plan.candidates
        if candidate.predicted_peak_bytes
    }
    curve[size] = memory.peak_bytes
    title = f"{run.name}, batch_size {size}"
    return memory_plot.draw(memory, title, size, curve, run.plan.budget_bytes)


def _draw_tests(
    panel: Axes,
    runs: Sequence[ReportedRun],
    run: ReportedRun,
    curves: Sequence[TestCurve],
    colour: str,
    dashes: Sequence[str],
) -> None:
    for dash, curve in zip(_cycle(dashes, len(curves)), curves, strict=True):
        panel.plot(
            [line.update for line in curve.lines],
            [or_nan(line.value) for line in curve.lines],
            color=colour,
            linestyle=dash,
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=_label(runs, run, f"test {curve.name}"),
        )


def _outputs(run: ReportedRun) -> list[TestCurve]:
    return [curve for curve in run.tests if not curve.is_loss]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = new_figure(8, 4.5)
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


def _finished(figure: Figure, panels: Sequence[Axes]) -> Figure:
    finish_panels(panels)
    for panel in panels:
        panel.legend(frameon=False, fontsize="small")
    panels[-1].set_xlabel("update")
    return figure


def _label(runs: Sequence[ReportedRun], run: ReportedRun, what: str) -> str:
    return plain(f"{run.name}: {what}" if len(runs) > 1 else what)


def _cycle(values: Sequence[str], count: int) -> list[str]:
    return [values[number % len(values)] for number in range(count)]
