r"""The images that an ImageData layer reads, from the list of them.

Source: image_data_layer.cpp, io.cpp (ReadImageToCVMat). A line is split at its last blank: what
follows goes through ``atoi``, everything before it is the path. So ``a.png 1 `` names the file
``a.png 1`` (with label 0), a tab splits nothing, an empty line names the root folder, and a line
without a blank is a path with label 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.listing import ListedLines
from caffe_batch.net.data.pictures import image_reader, image_size
from caffe_batch.net.data.survey import Find, Survey, Task, evenly
from caffe_batch.schema import caffe_pb2

#: How many image headers a quick look reads.
HEADERS = 512
#: How many lines of a list a quick look reads at its beginning.
LINES = 200_000
_STEP = 256

_ATOI = re.compile(rb"[ \t\n\v\f\r]*([+-]?\d+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list, as Caffe reads it.

    Attributes:
        number: 1 for the first.
        name: The path without the root folder.
        label: The number after it, 0 if there is none.
        written: What is written as the label; None if nothing is.
    """

    number: int
    name: str
    label: int
    written: str | None


def parse_line(number: int, line: bytes) -> Line:
    """One line, split as Caffe splits it."""
    name, blank, label = line.rpartition(b" ")
    if not blank:
        return Line(number, os.fsdecode(line), _atoi(line), None)
    return Line(number, os.fsdecode(name), _atoi(label), os.fsdecode(label.rstrip(b"\r")))


def _atoi(text: bytes) -> int:
    match = _ATOI.match(text)
    return int(match[1]) if match and len(match[1]) < 20 else 0


def survey_images(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at the list of an ImageData layer and at its images.

    Raises:
        InputError: The list or its first image can't be read.
    """
    settings = layer.image_data_param
    listing = find(settings.source)
    found, channels = Survey(), 3 if settings.is_color else 1
    written = ListedLines(listing)
    if not written:
        raise InputError(f"image list {listing} is empty")
    number = found.records = len(written)
    chosen: Sequence[int] = range(number) if task.complete else evenly(number, HEADERS)
    checked: Sequence[int] = range(number)
    if number > LINES and not task.complete:
        checked = [*range(LINES), *(index for index in chosen if index >= LINES)]
        found.note = (
            f"Of the {number:,} lines of {settings.source!r} {len(checked):,} are read: the first "
            "ones, and others spread over the rest."
        )
    lines = (parse_line(index + 1, written[index]) for index in checked)
    _check_lines(lines, found, task, settings.source)
    resized = bool(settings.new_height and settings.new_width)
    if not resized:
        image_reader(f"the images of {listing}")
    for count, index in enumerate(chosen, 1):
        line = parse_line(index + 1, written[index])
        place = Place(settings.source, line.number)
        if not line.name.strip():
            continue  # reported as an empty line
        try:
            size = image_size(find(settings.root_folder + line.name))
        except MissingExtraError as missing:
            if not resized:
                raise
            found.note = f"The images of {settings.source!r} aren't checked: {missing.message}."
            break
        except InputError as error:
            if index == 0 and not resized:
                raise
            found.tally.add(Level.ERROR, "image", error.message, place, _advice(line))
        else:
            if resized:
                size = settings.new_height, settings.new_width
            found.sizes.setdefault((channels, *size), place)
        found.read = count
        if count % _STEP == 0 or count == len(chosen):
            task.progress(settings.source, count, len(chosen))
    if resized:
        found.shapes = ((channels, settings.new_height, settings.new_width),)
    elif found.sizes:
        found.shapes = (max(found.sizes, key=prod),)
    else:
        raise InputError(f"image list {listing} has nothing but empty lines")
    return found


def _check_lines(lines: Iterable[Line], found: Survey, task: Task, source: str) -> None:
    """What the list itself shows: labels, and lines that aren't PATH LABEL."""
    for line in lines:
        place = Place(source, line.number)
        if not line.name.strip():
            found.tally.add(
                Level.ERROR,
                "empty",
                "an empty line: Caffe tries to load the root folder as an image",
                place,
                "Remove the empty line.",
            )
            continue
        for wanted in task.wanted:
            if wanted.top == 1:
                found.see(wanted, line.label, place)
        if line.written is None:
            found.tally.add(
                Level.REMARK,
                "no label",
                f"no label after {line.name!r}; Caffe takes 0",
                place,
                "A line is PATH LABEL, with one blank between them.",
            )
        elif line.written and not re.fullmatch(r"[+-]?\d+", line.written):
            found.tally.add(
                Level.REMARK,
                "label",
                f"{line.written!r} is not a whole number; Caffe takes {line.label}",
                place,
                "An ImageData layer takes only whole numbers; HDF5Data takes any.",
            )


def _advice(line: Line) -> str | None:
    """Why a path is probably not the intended one."""
    if "\t" in line.name:
        return "PATH and LABEL are separated by a blank, not by a tab."
    if line.name != line.name.strip() or not line.written:
        return "PATH and LABEL have exactly one blank between them, and none before or after."
    return None
