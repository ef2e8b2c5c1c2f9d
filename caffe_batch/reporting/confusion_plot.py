"""A confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.experiments.net_test import NetTest
from caffe_batch.reporting.figures import new_figure, plain, write_figure

#: Up to this many classes are named, and their shares are written into the cells.
_NAMED, _WRITTEN = 60, 25
#: The longest name of a class.
_LETTERS = 24


def draw_confusion(test: NetTest, path: Path) -> None:
    """Draw how the classes are taken for each other, as shares of each row.

    Raises:
        InputError: The net has no classes, or there is no matplotlib.
        OSError: The picture can't be written.
    """
    import numpy as np

    if test.judged is None:
        raise InputError("the net tells no classes apart, so there is no confusion matrix")
    confusion = test.judged.confusion
    rows = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(rows, 1)
    count = len(confusion)
    try:
        side = min(16.0, max(4.5, 1.8 + 0.32 * count))
        figure = new_figure(side, side)
    except ImportError as error:
        raise InputError(
            "drawing needs matplotlib", hint="pip install 'caffe-batch[plot]'"
        ) from error
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set_xlabel("taken for")
    panel.set_ylabel("class")
    if count <= _NAMED:
        names = [_short(each.name) for each in test.judged.classes]
        panel.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(count), names)
    if count <= _WRITTEN:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"
            panel.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour,
                fontsize="small",
            )  # fmt: skip
    write_figure(figure, path, dpi=120)


def _short(name: str) -> str:
    text = plain(name)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."
