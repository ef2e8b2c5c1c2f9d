"""The memory of a net as a plot: bytes along the net, and bytes against the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError
from caffe_batch.memory.base import Prediction
from caffe_batch.memory.ledger import Part
from caffe_batch.reporting.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    finish_panels,
    new_figure,
    plain,
    write_figure,
)
from caffe_batch.sizes import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One a part, in the order of the table.
COLOURS = {
    Part.ACTIVATIONS: BLUE,
    Part.GRADIENTS: SKY,
    Part.PARAMETERS: VERMILION,
    Part.SOLVER_STATE: ORANGE,
    Part.LAYER_BUFFERS: GREEN,
    Part.DATA_PREFETCH: PURPLE,
}
LABELS = {
    Part.ACTIVATIONS: "activations",
    Part.GRADIENTS: "gradients",
    Part.PARAMETERS: "parameters",
    Part.SOLVER_STATE: "solver state",
    Part.LAYER_BUFFERS: "layer buffers",
    Part.DATA_PREFETCH: "prefetch",
}
FORMATS = (".png", ".svg")
#: With more layers than this, their names would overlap.
NAMED_LAYERS = 60


def write_memory_plot(
    prediction: Prediction,
    picture: Path,
    *,
    title: str,
    batch_size: int,
    curve: Mapping[int, int | str],
    budget_bytes: int | None = None,
) -> None:
    """Draw a prediction into a PNG or SVG file.

    Args:
        prediction: What to draw layer by layer.
        picture: The file to write; its ending decides the format. It is replaced atomically.
        title: The title of the plot.
        batch_size: The batch size of the prediction; marked on the curve.
        curve: The predicted peak in bytes by batch size; the reason where Caffe refuses a size.
        budget_bytes: Drawn as a line across the curve, if given.

    Raises:
        InputError: The file name ends in neither .png nor .svg.
        ImportError: matplotlib is not installed (the extra ``plot``).
    """
    if picture.suffix.lower() not in FORMATS:
        raise InputError(
            f"{picture}: a picture ends in {' or '.join(FORMATS)}",
            hint="Give for example memory.png.",
        )
    write_figure(draw(prediction, title, batch_size, curve, budget_bytes), picture, dpi=120)


def draw(
    prediction: Prediction,
    title: str,
    batch_size: int,
    curve: Mapping[int, int | str],
    budget_bytes: int | None,
) -> Figure:
    """The figure of :func:`write_memory_plot`."""
    figure = new_figure(11, 8)
    along, against = figure.subplots(2, 1, height_ratios=[3, 2])
    _draw_layers(along, prediction)
    _draw_curve(against, batch_size, curve, budget_bytes)
    finish_panels((along, against), grid="y")
    for panel in (along, against):
        panel.yaxis.set_major_formatter(lambda value, _: format_size(round(value)))
        panel.set_ylim(bottom=0)
        panel.set_yticks(_binary_ticks(panel.get_ylim()[1]))
    along.set_title(plain(title), loc="left")
    return figure


def _binary_ticks(limit: float) -> list[int]:
    """Multiples of a power of two up to the limit, five to ten of them.

    >>> _binary_ticks(3500)
    [0, 512, 1024, 1536, 2048, 2560, 3072]
    """
    step = 1
    while step * 10 <= limit:
        step *= 2
    return list(range(0, int(limit) + 1, step))


def _short(name: str, limit: int = 16) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _draw_layers(panel: Axes, prediction: Prediction) -> None:
    layers = [layer for layer in prediction.layers if layer.bytes]
    places = range(len(layers))
    bottom = [0] * len(layers)
    for part, colour in COLOURS.items():
        heights = [layer.parts.get(part, 0) for layer in layers]
        if any(heights):
            panel.bar(places, heights, 0.9, bottom=bottom, color=colour, label=LABELS[part])
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    tested = next((i for i, layer in enumerate(layers) if layer.net != "train"), None)
    if tested is not None:
        panel.axvline(tested - 0.5, color="0.4", linewidth=1, linestyle=":")
        top = panel.get_ylim()[1]
        panel.text(tested - 0.3, top, "test net", color="0.4", va="top", fontsize="small")
    if len(layers) <= NAMED_LAYERS:
        panel.set_xticks(
            places, [plain(_short(layer.name)) for layer in layers], rotation=90, fontsize="small"
        )
    else:
        panel.set_xlabel(f"{len(layers)} layers, from the data to the loss")
    panel.set_ylabel("memory by layer")
    panel.margins(x=0.01)
    panel.legend(frameon=False, ncols=3, fontsize="small")


def _draw_curve(
    panel: Axes, batch_size: int, curve: Mapping[int, int | str], budget_bytes: int | None
) -> None:
    known = {size: peak for size, peak in sorted(curve.items()) if isinstance(peak, int)}
    sizes, here = list(known), known[batch_size]
    panel.plot(sizes, list(known.values()), ".-", color=BLUE, label="predicted peak")
    panel.plot([batch_size], [here], "o", color=VERMILION, markersize=9,
               label=f"batch_size {batch_size}: {format_size(here)}")  # fmt: skip
    if budget_bytes is not None:
        panel.axhline(budget_bytes, color="0.2", linestyle="--", linewidth=1,
                      label=f"budget: {format_size(budget_bytes)}")  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
    panel.set_xlabel("batch_size")
    panel.set_ylabel("memory")
    panel.legend(frameon=False, fontsize="small")
