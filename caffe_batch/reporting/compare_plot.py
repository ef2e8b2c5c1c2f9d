"""A plot of a comparison: test scores and losses, against samples and against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError
from caffe_batch.experiments.standings import Comparison, Point, Spread, Standing
from caffe_batch.reporting.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
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

_COLOURS = (BLACK, VERMILION, BLUE, SKY, GREEN, PURPLE, ORANGE, "#7f7f7f", "#a0522d")
_STYLES = ("-", "--", "-.", ":")

#: Where an accuracy is marked on its axis, which is stretched towards 1.
_ACCURACIES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)

#: Values beyond these are drawn here: a stretched axis has no place for 0 and 1.
_LOWEST, _HIGHEST = 0.005, 0.9995


def write_compare_plot(comparison: Comparison, picture: Path) -> None:
    """Draw a comparison into a PNG file, which is replaced atomically.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
        InputError: There is nothing to draw.
    """
    if picture.is_symlink():  # nothing is written through it to elsewhere
        picture.unlink()
    write_figure(draw(comparison), picture, dpi=84)


def draw(comparison: Comparison) -> Figure:
    """The figure: a row for the score and one for the loss, with a line for each strategy.

    The line is the mean over the seeds; the band around it is one standard deviation wide on each
    side.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: There is nothing to draw.
    """
    rows = [
        (name, pick)
        for name, pick in ((comparison.score_name, _score), (comparison.loss_name, _loss))
        if name is not None
    ]
    drawn = [each for each in comparison.standings if each.points()]
    if not rows or not drawn:
        raise InputError("no training has been tested, so there is nothing to draw")
    figure = new_figure(9.6, 2.7 * len(rows) + 1.1)
    panels = figure.subplots(len(rows), 2, sharex="col", sharey="row", squeeze=False)
    for (name, pick), row in zip(rows, panels, strict=True):
        for panel, across in zip(row, (_samples, _seconds), strict=True):
            for number, standing in enumerate(drawn):
                _draw_way(panel, number, standing, across, pick)
        finish_panels(row)
        row[0].set_ylabel(plain(f"test {name}"))
        _set_scale(row[0], drawn, pick)
    panels[-1][0].set_xlabel("samples seen")
    at_once = f", {comparison.jobs} trainings at once" if comparison.jobs > 1 else ""
    panels[-1][1].set_xlabel(f"seconds of training{at_once}")
    number = len(comparison.seeds)
    spread = "mean and standard deviation of" if number > 1 else ""
    panels[0][0].set_title(
        f"{spread} {number} {'seeds' if number > 1 else 'seed'}".strip(), loc="left", fontsize=10
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def label(standing: Standing, pick: Callable[[Point], float | None] | None = None) -> str:
    """A strategy in the legend: its name, its batch, and its result."""
    batch = f"{standing.facts.batch_size} x {standing.facts.iter_size}"
    points = standing.points()
    last = Spread.of((pick or _score)(point) for point in points[-1]) if points else None
    value = ""
    if last is not None and last.mean is not None:
        value = f": {last.mean:.4g}" + (f" ± {last.sd:.2g}" if last.sd is not None else "")
    diverged = standing.diverged
    remark = f" ({diverged} of {len(standing.runs)} diverged)" if diverged else ""
    return f"{standing.name} {batch}{value}{remark}"


def _draw_way(
    panel: Axes,
    number: int,
    standing: Standing,
    across: Callable[[Point], float],
    pick: Callable[[Point], float | None],
) -> None:
    points = standing.points()
    places = [sum(map(across, each)) / len(each) for each in points]
    spreads = [Spread.of(pick(point) for point in each) for each in points]
    means = [or_nan(each.mean) for each in spreads]
    deviations = [each.sd or 0.0 for each in spreads]
    colour = _COLOURS[number % len(_COLOURS)]
    panel.plot(
        places, means,
        color=colour, linestyle=_STYLES[number % len(_STYLES)], linewidth=1.6,
        marker="o" if len(places) == 1 else None, label=plain(label(standing)),
    )  # fmt: skip
    lower = [mean - sd for mean, sd in zip(means, deviations, strict=True)]
    upper = [mean + sd for mean, sd in zip(means, deviations, strict=True)]
    panel.fill_between(places, lower, upper, color=colour, alpha=0.12, linewidth=0)


def _set_scale(
    panel: Axes, drawn: Sequence[Standing], pick: Callable[[Point], float | None]
) -> None:
    """Scale an axis so that good strategies can be distinguished and bad ones are visible too."""
    points = [point for standing in drawn for each in standing.points() for point in each]
    known = [value for value in map(pick, points) if value is not None]
    if not known:
        return
    if pick is _loss:
        means = (
            [or_nan(Spread.of(map(pick, each)).mean) for each in standing.points()]
            for standing in drawn
        )
        scale_losses(panel, *means)
    elif min(known) >= 0 and 0.9 < max(known) <= 1:
        panel.set_yscale("logit")
        low, high = max(min(known), _LOWEST), min(max(known), _HIGHEST)
        panel.set_yticks(_ACCURACIES, [f"{value:g}" for value in _ACCURACIES])
        panel.set_yticks([], minor=True)
        panel.set_ylim(0.9 * low, 1 - 0.7 * (1 - high))


def _score(point: Point) -> float | None:
    return point.score


def _loss(point: Point) -> float | None:
    return point.loss


def _samples(point: Point) -> float:
    return point.samples


def _seconds(point: Point) -> float:
    return point.seconds
