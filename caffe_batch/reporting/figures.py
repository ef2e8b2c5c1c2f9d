"""What all plots have in common: colours, panels, scales, and how a file is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caffe_batch.files import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which can be distinguished with any kind of colour vision.
BLACK, BLUE, SKY, VERMILION, ORANGE, GREEN, PURPLE = (
    "#000000", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7",
)  # fmt: skip

#: If the ratio of the largest to the smallest value is above this, an axis is logarithmic.
LOG_RATIO = 30.0


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its size in inches.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finish_panels(panels: Iterable[Axes], grid: Literal["both", "x", "y"] = "both") -> None:
    """Give panels a grid, and remove the lines at the top and on the right."""
    for panel in panels:
        panel.grid(alpha=0.25, axis=grid)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)


def scale_losses(panel: Axes, losses: Iterable[float]) -> None:
    """Make the axis logarithmic if the losses differ greatly."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > LOG_RATIO:
        panel.set_yscale("log")


def or_nan(value: float | None) -> float:
    """A value to draw; nan, which leaves a gap, if there is none."""
    return math.nan if value is None else value


def write_figure(figure: Figure, picture: Path, dpi: int) -> None:
    """Write a figure, in the format that the file name's ending says.

    Args:
        figure: What to write.
        picture: The file, which is replaced atomically.
        dpi: Pixels per inch of the figure.

    Raises:
        OSError: It can't be written.
    """
    ending = picture.suffix[1:].lower()
    write_picture(picture, lambda file: figure.savefig(file, format=ending, dpi=dpi))
