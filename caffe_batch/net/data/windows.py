"""The windows that a WindowData layer cuts out of images, from the file that lists them.

Source: window_data_layer.cpp. A batch is drawn at random from the windows that overlap an object
enough (the foreground) and from those that overlap it too little (the background, label 0). An
image that can't be loaded isn't fatal: Caffe leaves the rest of the batch as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.images import HEADERS
from caffe_batch.net.data.listing import read_words
from caffe_batch.net.data.pictures import image_size
from caffe_batch.net.data.survey import Find, Survey, Task, evenly
from caffe_batch.schema import caffe_pb2

#: How many windows a quick look reads.
WINDOWS = 200_000


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
        images = _first_images(read_words(path), found, task, settings.source)
    except ValueError:
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
        if not number and not found.note:  # the rest of the file may have one
            found.tally.add(Level.ERROR, name, f"there is no {name} window", place)
    for count, index in enumerate(evenly(len(images), len(images) if task.complete else HEADERS)):
        _look(images[index], settings, find, found)
        found.read += len(images[index].windows)
        task.progress(settings.source, count + 1, len(images))
    return found


def windowed_images(words: Iterable[bytes]) -> Iterator[WindowedImage]:
    """The images of a window file, one by one.

    Raises:
        ValueError: They don't make a window file.
    """
    rest = iter(words)
    for mark in rest:
        head = list(islice(rest, 6))
        if mark != b"#" or len(head) < 6:
            raise ValueError(mark)
        windows = []
        for _ in range(int(head[5])):
            label, overlap, left, top, right, bottom = islice(rest, 6)
            corners = int(left), int(top), int(right), int(bottom)
            windows.append((int(label), float(overlap), *corners))
        yield WindowedImage(os.fsdecode(head[1]), tuple(windows))


def _first_images(
    words: Iterable[bytes], found: Survey, task: Task, source: str
) -> list[WindowedImage]:
    """The images of a window file; in a quick look those with the first windows only.

    Raises:
        ValueError: They don't make a window file.
    """
    images, windows = [], 0
    for image in windowed_images(words):
        if windows >= WINDOWS and not task.complete:
            found.note = f"Of the windows of {source!r} only the first {windows:,} are read."
            break
        images.append(image)
        windows += len(image.windows)
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
