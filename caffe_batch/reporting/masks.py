"""Masks: pictures whose colours are the classes of a segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from caffe_batch.experiments.classification import Answer
from caffe_batch.files import write_picture


def palette() -> list[int]:
    """256 colours, far apart from their neighbours: those of the PASCAL VOC data sets.

    >>> palette()[:9]
    [0, 0, 0, 128, 0, 0, 0, 128, 0]
    """
    colours = []
    for number in range(256):
        channels, rest = [0, 0, 0], number
        for bit in range(7, -1, -1):
            for channel in range(3):
                channels[channel] |= (rest >> channel & 1) << bit
            rest >>= 3
        colours += channels
    return colours


def write_masks(answers: Iterable[Answer], folder: Path) -> dict[str, Path]:
    """Write a PNG with a palette for each map: its values are the classes.

    A mask has the size of its picture. Those of pictures of one name are numbered.

    Returns:
        The first mask of each picture, by the picture's name.

    Raises:
        OSError: The folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    written: dict[str, Path] = {}
    for answer in answers:
        for classes in answer.classes.values():
            stem = Path(answer.picture).stem or "picture"
            name, number = f"{stem}.png", 2
            while name in taken:
                name, number = f"{stem}_{number}.png", number + 1
            taken.add(name)
            image = _image(classes, answer.size)
            write_picture(folder / name, partial(image.save, format="PNG"))
            written.setdefault(answer.picture, folder / name)
    return written


def _image(classes: Any, size: tuple[int, int] | None) -> Any:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.minimum(classes, 255).astype(np.uint8))
    image.putpalette(palette())
    if size is not None and size != classes.shape:
        image = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return image
