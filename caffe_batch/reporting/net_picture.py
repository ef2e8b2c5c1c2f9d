"""Pictures of a net, from the data down to the losses: that of ``draw``, and that of the report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Template

from caffe_batch.errors import InputError
from caffe_batch.reporting.figures import new_figure, plain, write_figure
from caffe_batch.reporting.net_layout import Drawing, Role
from caffe_batch.reporting.page_templates import page_template
from caffe_batch.terminal import visible

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
#: Inches that a box is wide.
_WIDTH = _COLUMN - 0.3
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
    placing = place(drawing)
    width, height = placing.width, placing.height
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_xlim(0, width)
    panel.set_ylim(height, 0)
    panel.axis("off")
    panel.text(_MARGIN, _MARGIN, plain(title), va="top", fontsize=10, fontweight="bold")
    _legend(panel, drawing)
    for arrow in placing.arrows:
        panel.annotate(
            "", arrow.end, arrow.start,
            arrowprops={
                "arrowstyle": "-|>", "color": "#666666", "lw": 0.8, "shrinkA": 0, "shrinkB": 0,
                "connectionstyle": f"arc3,rad={-0.25 if arrow.far else 0.0}",
            },
            zorder=1,
        )  # fmt: skip
    for box, centre, top in zip(drawing.boxes, placing.centres, placing.tops, strict=True):
        _draw(panel, box.title, box.lines, FILLS[box.role], centre, top)
    dpi = min(100, int(_MOST_PIXELS / max(width, height)))
    write_figure(figure, picture, dpi=dpi)


class Arrow(NamedTuple):
    """From the lower edge of a box to the upper one of another, in inches.

    Attributes:
        start, end: Points, x and y.
        far: Whether it would run through the boxes between its ends if it were straight.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    far: bool


class Placing(NamedTuple):
    """Where everything stands in a picture, in inches from its upper left corner.

    Attributes:
        width, height: The picture.
        centres, tops: Of each box: its middle from the left, and its upper edge.
        heights: Of each box.
        arrows: Between the boxes.
    """

    width: float
    height: float
    centres: list[float]
    tops: list[float]
    heights: list[float]
    arrows: list[Arrow]


def place(drawing: Drawing) -> Placing:
    """Where the boxes and arrows of a drawing stand."""
    columns = [column for column, _ in drawing.places]
    rows = [row for _, row in drawing.places]
    left = min(columns, default=0.0)
    width = (max(columns, default=0.0) - left + 1) * _COLUMN + 2 * _MARGIN
    edges, height = _tops(drawing)
    centres = [_MARGIN + (column - left + 0.5) * _COLUMN for column in columns]
    tops = [edges[row] for row in rows]
    heights = [_height(drawing, box) for box in range(len(drawing.boxes))]
    arrows = [
        Arrow(
            (centres[source], tops[source] + heights[source]),
            (centres[target], tops[target]),
            far=rows[target] - rows[source] > 1 and centres[source] == centres[target],
        )
        for source, target in drawing.arrows
    ]
    return Placing(width, height, centres, tops, heights, arrows)


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

    width, height = _WIDTH, (len(lines) + 1.6) * _LINE
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


def net_svg(drawing: Drawing) -> str:
    """The picture as an SVG element for a page; its text is escaped."""
    placing = place(drawing)
    boxes = [
        {
            "fill": FILLS[box.role], "x": centre - _WIDTH / 2, "y": top, "height": height,
            "centre": centre,
            "lines": [
                (top + (number + 0.8) * _LINE, visible(_short(line)))
                for number, line in enumerate((box.title, *box.lines))
            ],
        }
        for box, centre, top, height in zip(
            drawing.boxes, placing.centres, placing.tops, placing.heights, strict=True
        )
    ]  # fmt: skip
    roles = [(FILLS[role], role.value) for role in Role if role in {b.role for b in drawing.boxes}]
    return _svg().render(placing=placing, boxes=boxes, roles=roles, width=_WIDTH)


@cache
def _svg() -> Template:
    return page_template("net.svg.j2", points=lambda inches: f"{72 * inches:.1f}")
