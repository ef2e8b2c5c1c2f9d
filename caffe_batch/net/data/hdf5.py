"""The files that an HDF5Data layer reads, from the list of them.

Source: hdf5_data_layer.cpp, hdf5.cpp (hdf5_load_nd_dataset_helper). Caffe opens them one after the
other: the second one when it has read all rows of the first, and so on. The tops keep the sizes of
the first file, whatever is in the others.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.layers.base import Shape, count
from caffe_batch.net.data.blob_file import text
from caffe_batch.net.data.extras import extra
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.listing import ListedLines
from caffe_batch.net.data.survey import SAMPLE, Find, Survey, Task, Wanted, evenly
from caffe_batch.schema import caffe_pb2

#: What h5py raises at a damaged file.
_DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError)

#: How many files of a list a quick look opens.
FILES = 10_000

#: Datasets of up to this many values are read completely even in a quick look.
_FEW_VALUES = 1 << 20


def survey_hdf5(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at all HDF5 files of a layer: their shapes, and the values that were asked for.

    Raises:
        InputError: The list or the first file can't be read.
    """
    settings = layer.hdf5_data_param
    listing = find(settings.source)
    lines = ListedLines(listing)
    chosen = range(len(lines)) if task.complete else evenly(len(lines), FILES)
    places = (
        Place(os.fsdecode(word), record=f"line {index + 1} of {settings.source}")
        for index in chosen
        for word in lines[index].split()
    )
    start = next(places, None)
    if start is None:
        raise InputError(f"HDF5 file list {listing} is empty")
    h5py = extra("h5py", "hdf5", f"HDF5 file {start.file}")
    found, rows = Survey(), list[int]()
    for number, place in enumerate(chain([start], places)):
        name = place.file
        try:
            path = find(name)
            if not path.is_file():  # a pipe would be waited for
                raise InputError(f"{path} is not a readable HDF5 file (it is not a file)")
            with h5py.File(path, "r") as file:
                reader = _File(file, path, place, tuple(layer.top))
                rows.append(reader.look(found, task, first=number == 0))
        except InputError as error:
            wrong = error
        except _DAMAGE as error:
            wrong = InputError(f"{name} is not a readable HDF5 file ({error})")
        else:
            continue
        if number == 0:
            raise wrong
        found.tally.add(Level.ERROR, "file", wrong.message, place, wrong.hint)
    found.records, found.file_rows = sum(rows), max(rows)
    if len(chosen) < len(lines):
        found.estimated = True
        found.records = found.records * len(lines) // len(chosen)
        found.note = (
            f"Of the {len(lines):,} files of {settings.source!r} {len(chosen):,} are opened, so "
            "the number of rows is an estimate."
        )
    return found


class _File:
    """One file of the list, open."""

    def __init__(self, file: Any, path: Path, place: Place, tops: tuple[str, ...]) -> None:
        self.file, self.path, self.place, self.tops = file, path, place, tops

    def look(self, found: Survey, task: Task, *, first: bool) -> int:
        """Take in this file.

        Returns:
            The number of its rows.

        Raises:
            InputError: A dataset is missing, or Caffe can't read it.
        """
        sets = [self.dataset(top) for top in self.tops]
        shapes: list[Shape] = [tuple(data.shape) for data in sets]
        rows = shapes[0][0]
        if first:
            found.shapes = tuple(shape[1:] for shape in shapes)
            found.sizes = {found.shapes[0]: self.place}
        for top, shape in zip(self.tops, shapes, strict=True):
            if shape[0] != rows:
                found.tally.add(
                    Level.ERROR,
                    "rows",
                    f"{top!r} has {shape[0]:,} rows and {self.tops[0]!r} {rows:,}",
                    self.place,
                    "Caffe aborts at this file: its datasets need the same number of rows.",
                )
        if not rows:
            found.tally.add(
                Level.ERROR,
                "no rows",
                "the file has no rows",
                self.place,
                "Caffe aborts at this file: take it off the list.",
            )
        for top, shape, expected in zip(self.tops, shapes, found.shapes, strict=True):
            if shape[1:] != expected:
                more = count(shape[1:]) < count(expected)
                what = "past the end of the array" if more else "at the wrong places"
                found.tally.add(
                    Level.ERROR if more else Level.REMARK,
                    "shape",
                    f"a row of {top!r} is {text(shape[1:])}, but {text(expected)} in the first "
                    f"file; Caffe reads it as the latter, {what}",
                    self.place,
                    "All files of a list need rows of the same shape.",
                )
        read = rows
        for wanted in task.wanted:
            if wanted.top < len(sets):
                read = min(read, self.values(sets[wanted.top], wanted, found, task))
        found.read += read
        return rows

    def dataset(self, top: str) -> Any:
        """The dataset of a top.

        Raises:
            InputError: It isn't there, or is of a type that Caffe doesn't read.
        """
        if top not in self.file:
            raise InputError(
                f"HDF5 file {self.path} has no dataset {top!r}; "
                f"it has {', '.join(sorted(self.file)) or 'none'}"
            )
        data = self.file[top]
        if not getattr(data, "shape", ()):  # a group has none, a scalar an empty one
            raise InputError(
                f"{top!r} of HDF5 file {self.path} is not an array with a row for each record"
            )
        if data.dtype.kind not in "fiu":  # booleans are an enumeration in HDF5
            raise InputError(
                f"{top!r} of HDF5 file {self.path} has values of type {data.dtype}, but Caffe "
                "reads only floating-point numbers and integers",
                hint="Store it as float32.",
            )
        return data

    def values(self, data: Any, wanted: Wanted, found: Survey, task: Task) -> int:
        """Take in the values of a dataset; returns how many rows were read."""
        rows: int = data.shape[0]
        size = max(1, count(data.shape[1:]))
        part = max(1, _FEW_VALUES // size)
        starts = list(range(0, rows, part))
        if not task.complete and rows > part:
            part = min(part, max(1, SAMPLE // 2))
            starts = [0, rows - part]
        for number, start in enumerate(starts):
            self._see(data[start : start + part], start, wanted, found)
            if task.complete:
                task.progress(self.place.file, min(rows, start + part), rows)
            elif number:
                return 2 * part
        return rows

    def _see(self, block: Any, start: int, wanted: Wanted, found: Survey) -> None:
        import numpy as np

        cut = [slice(None)] * block.ndim
        for axis, first, end in wanted.region:
            cut[axis + 1] = slice(first, end)
        block = np.asarray(block[tuple(cut)], np.float64)
        if not block.size:
            return
        values = np.where(np.isnan(block), -np.inf, block)
        if wanted.ignore is not None:
            with np.errstate(invalid="ignore"):
                kept = np.trunc(values) != wanted.ignore
            if not kept.any():
                return
        else:
            kept = np.ones(values.shape, bool)
        for values_or_none, pick in ((np.inf, np.argmin), (-np.inf, np.argmax)):
            flat = int(pick(np.where(kept, values, values_or_none)))
            row = start + int(np.unravel_index(flat, values.shape)[0])
            value = float(values.flat[flat])
            found.see(wanted, value, Place(self.place.file, record=f"row {row}"))
