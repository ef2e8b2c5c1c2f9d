"""HDF5Data layers: the rows of one file after another, each file in memory as a whole.

Sources: hdf5_data_layer.cpp, hdf5.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from caffe_batch.engines.torch.data.feeds import Batch, Source, State
from caffe_batch.engines.torch.data.transform import Array
from caffe_batch.engines.torch.draws import LibcRandom
from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import extra
from caffe_batch.net.data.listing import read_words
from caffe_batch.schema import caffe_pb2


class Hdf5Rows(Source):
    """The batches of an HDF5Data layer.

    Args:
        layer: The layer.
        find: Finds files.
        draws: What shuffles the rows, and all other such layers' too.
    """

    def __init__(
        self, layer: caffe_pb2.LayerParameter, find: Callable[[str], Path], draws: LibcRandom
    ) -> None:
        if layer.HasField("transform_param"):
            raise InputError("an HDF5Data layer transforms nothing: remove its transform_param")
        settings = layer.hdf5_data_param
        self.batch_size = settings.batch_size
        self._tops, self._find = tuple(layer.top), find
        self._draws = draws if settings.shuffle else None
        self._paths = [os.fsdecode(word) for word in read_words(find(settings.source))]
        if not self._paths:
            raise InputError(f"HDF5 file list {settings.source} is empty")
        self._files = self._shuffled(range(len(self._paths)))
        self._file = self._row = 0
        self._load()

    def _shuffled(self, numbers: Iterable[int]) -> list[int]:
        """A new list, so that a state that was given out stays as it was."""
        found = list(numbers)
        if self._draws is not None:
            self._draws.shuffle(found)
        return found

    def _load(self) -> None:
        """Read the present file."""
        self._arrays = load_tops(self._find(self._paths[self._files[self._file]]), self._tops)
        self._rows = self._shuffled(range(len(self._arrays[0])))

    def _next(self) -> None:
        """Go on by a row."""
        self._row += 1
        if self._row == len(self._rows):
            if len(self._files) > 1:
                self._file += 1
                if self._file == len(self._files):
                    self._file = 0
                    self._files = self._shuffled(self._files)
                self._load()
            self._row = 0
            self._rows = self._shuffled(self._rows)

    def skip(self, samples: int) -> None:
        while samples:
            step = min(samples, len(self._rows) - self._row)
            self._row += step - 1
            samples -= step
            self._next()

    def read(self) -> Batch:
        rows: list[list[Array]] = [[] for _ in self._tops]
        for _ in range(self.batch_size):
            self.skip(self.rank)
            for array, taken in zip(self._arrays, rows, strict=True):
                taken.append(array[self._rows[self._row]])
            self.skip(self.ranks - self.rank)
        return Batch(tuple(np.stack(taken) for taken in rows))

    def state(self) -> State:
        if self._draws is None:
            return {}
        return {
            "files": [*self._files],
            "file": self._file,
            "rows": [*self._rows],
            "row": self._row,
        }

    def restore(self, state: State) -> None:
        self._files, self._file = [int(each) for each in state["files"]], int(state["file"])
        self._arrays = load_tops(self._find(self._paths[self._files[self._file]]), self._tops)
        self._rows, self._row = [int(each) for each in state["rows"]], int(state["row"])


def load_tops(path: Path, tops: tuple[str, ...]) -> tuple[Array, ...]:
    """The datasets of a file, in float32.

    Raises:
        InputError: It isn't an HDF5 file with them, or they differ in their number of rows.
    """
    h5py = extra("h5py", "hdf5", f"HDF5 file {path}")
    try:
        with h5py.File(path, "r") as file:
            found = tuple(np.asarray(file[top][()], np.float32) for top in tops)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a readable HDF5 file with {', '.join(tops)}") from error
    if len({len(each) for each in found}) != 1 or not len(found[0]):
        raise InputError(f"{path}: its datasets need the same number of rows, at least one")
    return found
