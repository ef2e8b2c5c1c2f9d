"""The windows that a WindowData layer cuts out of images, from the file that lists them.

Source: window_data_layer.cpp. A batch is drawn at random from the windows that overlap an object
enough (the foreground) and from those that overlap it too little (the background, label 0). An
image that can't be loaded isn't fatal: Caffe leaves the rest of the batch as it was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.images import HEADERS
from caffe_batch.net.data.listing import read_words
from caffe_batch.net.data.pictures import image_size
from caffe_batch.net.data.survey import Find, Survey, Task, evenly
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True, slots=True)
class WindowedImage:
    """An image of the file: its path, and (label, overlap, x1, y1, x2, y2) of each window."""

    name: str
    windows: tuple[tuple[int, float, int, int, int, int], ...]


def survey_windows(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at the window file of a WindowData layer and at its images.

    Raises:
        InputError: It isn't a window file.
    """
    settings = layer.window_data_param
    path, found, place = find(settings.source), Survey(), Place(settings.source)
    try:
        images = windowed_images(read_words(path))
    except (ValueError, IndexError):
        images = []
    if not images:
        raise InputError(
            f"{path} is not a window file",
            hint="For each image it has # INDEX, PATH, CHANNELS, HEIGHT, WIDTH, the number of "
            "windows, and for each window CLASS OVERLAP X1 Y1 X2 Y2.",
        )
    foreground = background = 0
    for image in images:
        for label, overlap, *_ in image.windows:
            found.records += 1
            at = Place(settings.source, record=image.name)
            if overlap >= settings.fg_threshold:
                foreground += 1
                if label <= 0:
                    found.tally.add(
                        Level.ERROR, "label", f"a foreground window has label {label}", at
                    )
                for wanted in task.wanted:
                    found.see(wanted, label, at)
            elif overlap < settings.bg_threshold:
                background += 1
    for name, number in (("foreground", foreground), ("background", background)):
        if not number:
            found.tally.add(Level.ERROR, name, f"there is no {name} window", place)
    for count, index in enumerate(evenly(len(images), len(images) if task.complete else HEADERS)):
        _look(images[index], settings, find, found)
        found.read += len(images[index].windows)
        task.progress(settings.source, count + 1, len(images))
    return found


def windowed_images(words: Sequence[bytes]) -> list[WindowedImage]:
    """The images of a window file.

    Raises:
        ValueError, IndexError: They don't make a window file.
    """
    images, at = [], 0
    while at < len(words):
        if words[at] != b"#":
            raise ValueError(words[at])
        name, number = os.fsdecode(words[at + 2]), int(words[at + 6])
        at += 7
        windows = []
        for _ in range(number):
            label, overlap, left, top, right, bottom = words[at : at + 6]
            corners = int(left), int(top), int(right), int(bottom)
            windows.append((int(label), float(overlap), *corners))
            at += 6
        images.append(WindowedImage(name, tuple(windows)))
    return images


def _look(
    image: WindowedImage, settings: caffe_pb2.WindowDataParameter, find: Find, found: Survey
) -> None:
    """Check that an image is there and contains its windows."""
    place = Place(settings.source, record=image.name)
    try:
        height, width = image_size(find(settings.root_folder + image.name))
    except MissingExtraError as missing:
        found.note = f"The images of {settings.source!r} aren't checked: {missing.message}."
        return
    except InputError as error:
        found.tally.add(
            Level.REMARK, "image", f"{error.message}; Caffe leaves the batch unfilled", place
        )
        return
    for _, _, left, top, right, bottom in image.windows:
        if not (0 <= left <= right < width and 0 <= top <= bottom < height):
            found.tally.add(
                Level.ERROR,
                "outside",
                f"the window {left} {top} {right} {bottom} isn't inside the image of "
                f"{width} x {height}",
                place,
            )
            return
