"""What all plots have in common: colours, panels, scales, and how a file is written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caffe_batch.errors import InputError
from caffe_batch.files import write_picture
from caffe_batch.reporting.loss_range import loss_range
from caffe_batch.terminal import visible

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


def scale_losses(panel: Axes, *curves: Sequence[float]) -> None:
    """Make the axis logarithmic if the losses differ greatly; leave high first ones outside.

    Args:
        panel: The panel, with the curves drawn.
        curves: Their losses, each in the order of the updates.
    """
    ranges = [loss_range(curve) for curve in curves if any(map(math.isfinite, curve))]
    if not ranges:
        return
    low, high = min(each.low for each in ranges), max(each.high for each in ranges)
    is_log = low > 0 and high / low > LOG_RATIO
    if is_log:
        panel.set_yscale("log")
    outside = [each for each in ranges if each.above and each.first > high]
    if not outside:
        return
    air = (high / low) ** 0.05 if is_log else (high - low) * 0.05
    panel.set_ylim(low / air if is_log else low - air, high * air if is_log else high + air)
    notes = "; ".join(dict.fromkeys(each.note for each in outside))
    panel.annotate(
        f"\u2191 {notes}", (0, 1), xytext=(24, -4), xycoords="axes fraction",
        textcoords="offset points", va="top", fontsize="small", color="#555555",
    )  # fmt: skip


def plain(text: str) -> str:
    r"""A text with names in it, for a title, a label or a tick: matplotlib shows it as it is.

    To matplotlib, what stands between two ``$`` is a formula, and a label that begins with ``_`` is
    not for the legend.

    >>> print(plain("$x_1$"), plain("_a\nb"))
    \$x_1\$  _a b
    """
    shown = visible(text.replace("\n", " ")).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def why_not_drawn(name: str, write: Callable[[], object]) -> Iterator[str]:
    """Draw a picture of something that is done; yields the reason if it can't be drawn.

    Whatever goes wrong with the picture, what it shows has ended well.

    Args:
        name: Of the picture's file.
        write: Draws and writes it.
    """
    try:
        write()
    except ImportError:
        yield f"{name} needs matplotlib: pip install 'caffe-batch[plot]'"
    except InputError as error:
        yield f"no {name}: {error.message}"
    except Exception as error:  # a font, a full disk, the settings of the user's matplotlib
        yield f"no {name}: {str(error) or type(error).__name__}"


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters of a name that the font lacks become boxes
        write_picture(picture, lambda file: figure.savefig(file, format=ending, dpi=dpi))
