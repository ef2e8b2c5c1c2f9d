"""The picture of ``caffe-batch draw``: a net from the data down to the losses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError
from caffe_batch.reporting.figures import new_figure, plain, write_figure
from caffe_batch.reporting.net_layout import Drawing, Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")

#: The fill of a box by what it is in training; dark text is legible on each.
FILLS = {
    Role.DATA: "#d9d9d9",
    Role.LEARNED: "#bfdcf2",
    Role.FROZEN: "#e6e0f0",
    Role.LOSS: "#fbd3b8",
    Role.PLAIN: "#ffffff",
}

#: Inches that a column and a line of text take, and the space between two rows.
_COLUMN, _LINE, _GAP, _MARGIN = 3.4, 0.15, 0.3, 0.25
#: The longest side of a PNG in pixels; larger pictures get fewer of them an inch.
_MOST_PIXELS = 30_000


def write_net_picture(drawing: Drawing, picture: Path, *, title: str) -> None:
    """Draw a net.

    Args:
        drawing: The net.
        picture: A file that ends in .png or .svg.
        title: What it is, at the top.

    Raises:
        InputError: The file has another ending.
        ImportError: matplotlib is not installed (the extra ``plot``).
        OSError: The picture can't be written.
    """
    if picture.suffix.lower() not in FORMATS:
        raise InputError(f"{picture} must end in {' or '.join(FORMATS)}")
    columns = [column for column, _ in drawing.places]
    left = min(columns, default=0.0)
    width = (max(columns, default=0.0) - left + 1) * _COLUMN + 2 * _MARGIN
    tops, height = _tops(drawing)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_xlim(0, width)
    panel.set_ylim(height, 0)
    panel.axis("off")
    panel.text(_MARGIN, _MARGIN, plain(title), va="top", fontsize=10, fontweight="bold")
    _legend(panel, drawing)
    centres = [_MARGIN + (column - left + 0.5) * _COLUMN for column in columns]
    rows = [row for _, row in drawing.places]
    heights = [_height(drawing, box) for box in range(len(drawing.boxes))]
    for source, target in drawing.arrows:
        start = centres[source], tops[rows[source]] + heights[source]
        end = centres[target], tops[rows[target]]
        far = rows[target] - rows[source] > 1 and centres[source] == centres[target]
        bend = -0.25 if far else 0.0
        panel.annotate(
            "", end, start,
            arrowprops={
                "arrowstyle": "-|>", "color": "#666666", "lw": 0.8, "shrinkA": 0, "shrinkB": 0,
                "connectionstyle": f"arc3,rad={bend}",
            },
            zorder=1,
        )  # fmt: skip
    for box, each in enumerate(drawing.boxes):
        _draw(panel, each.title, each.lines, FILLS[each.role], centres[box], tops[rows[box]])
    dpi = min(100, int(_MOST_PIXELS / max(width, height)))
    write_figure(figure, picture, dpi=dpi)


def _height(drawing: Drawing, box: int) -> float:
    """Of a box, in inches."""
    return (len(drawing.boxes[box].lines) + 1.6) * _LINE


def _tops(drawing: Drawing) -> tuple[list[float], float]:
    """The upper edge of each row and the height of the whole, in inches."""
    tallest: dict[int, float] = {}
    for box, (_, row) in enumerate(drawing.places):
        tallest[row] = max(tallest.get(row, 0.0), _height(drawing, box))
    tops, edge = [], _MARGIN + 4 * _LINE
    for row in range(len(tallest)):
        tops.append(edge)
        edge += tallest[row] + _GAP
    return tops, edge + _MARGIN


def _legend(panel: Axes, drawing: Drawing) -> None:
    """What the colours mean, for those that occur."""
    place = _MARGIN
    for role in Role:
        if any(box.role is role for box in drawing.boxes):
            panel.text(
                place, _MARGIN + 2 * _LINE, role.value, va="top", fontsize=7,
                bbox={"facecolor": FILLS[role], "edgecolor": "#888888", "lw": 0.5, "pad": 1.5},
            )  # fmt: skip
            place += 0.25 + 0.055 * len(role.value)


def _draw(
    panel: Axes, title: str, lines: tuple[str, ...], fill: str, centre: float, top: float
) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = _COLUMN - 0.3, (len(lines) + 1.6) * _LINE
    panel.add_patch(
        FancyBboxPatch(
            (centre - width / 2, top), width, height, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill, edgecolor="#888888", lw=0.7, zorder=2,
        )
    )  # fmt: skip
    for number, line in enumerate((title, *lines)):
        panel.text(
            centre, top + (number + 0.8) * _LINE, plain(_short(line)), ha="center", va="center",
            fontsize=7, fontweight="bold" if number == 0 else "normal", zorder=3,
        )  # fmt: skip


def _short(text: str, most: int = 52) -> str:
    """A text that fits into a box.

    >>> _short("a" * 60) == "a" * 25 + "\u2026" + "a" * 26
    True
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 1]}\u2026{text[-most // 2 :]}"
