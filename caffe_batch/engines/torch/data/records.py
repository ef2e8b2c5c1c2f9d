"""Data layers: Datums of an LMDB or LevelDB, raw or encoded.

Sources: data_layer.cpp, data_transformer.cpp, io.cpp (DecodeDatumToCVMat).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from caffe_batch.engines.torch.data.feeds import Batch, Source
from caffe_batch.engines.torch.data.pictures import decode
from caffe_batch.engines.torch.data.transform import Array, Cut, Transform
from caffe_batch.errors import InputError
from caffe_batch.net.data.blob_file import text
from caffe_batch.net.data.database import Database, Record, keep_open
from caffe_batch.schema import caffe_pb2

#: How many records are taken from a database at once.
_TAKEN = 16


class SharedDatabase:
    """An open database that several layers read, each in its own thread."""

    def __init__(self, database: Database) -> None:
        self._database, self._lock = database, threading.Lock()
        self.records = database.records

    def from_record(self, number: int) -> Iterator[Record]:
        """Key and value of all records from the one with this number on, without an end."""
        while True:
            records = self._database.forward(number)
            while True:
                with self._lock:
                    taken = list(islice(records, _TAKEN))
                if not taken:
                    break
                yield from taken
            number = 0


class Databases:
    """The databases of a worker's nets: opened once, since neither library opens one twice."""

    def __init__(self) -> None:
        self._open: dict[Path, SharedDatabase] = {}
        self._stack = ExitStack()

    def get(self, path: Path, *, lmdb: bool) -> SharedDatabase:
        """An open database.

        Raises:
            InputError: It can't be opened, or is empty.
        """
        place = path.resolve()
        if place not in self._open:
            database = self._stack.enter_context(keep_open(path, lmdb=lmdb))
            self._open[place] = SharedDatabase(database)
        return self._open[place]

    def close(self) -> None:
        """Close all of them."""
        self._stack.close()


class Datums(Source):
    """The batches of a Data layer.

    Args:
        layer: The layer.
        database: Its database.
        transform: Its transformation.
    """

    def __init__(
        self, layer: caffe_pb2.LayerParameter, database: SharedDatabase, transform: Transform
    ) -> None:
        self.batch_size, self.ahead = layer.data_param.batch_size, layer.data_param.prefetch
        self.transform: Transform = transform
        self._labelled = len(layer.top) > 1
        force = layer.transform_param
        if force.force_color and force.force_gray:
            raise InputError("force_color and force_gray exclude each other")
        self._color = True if force.force_color else False if force.force_gray else None
        self._database, self._place = database, 0
        self._records: Iterator[Record] | None = None

    def skip(self, samples: int) -> None:
        self._place = (self._place + samples) % self._database.records
        self.transform.skip(samples)

    def read(self) -> Batch:
        if self._records is None:
            own = self._database.from_record(self._place)
            self._records = islice(own, self.rank, None, self.ranks)
        samples: list[Array] = []
        labels = np.empty(self.batch_size, np.float32)
        cuts: list[Cut] = []
        for index, (key, value) in enumerate(islice(self._records, self.batch_size)):
            try:
                datum = caffe_pb2.Datum.FromString(value)
                sample, cut = self.transform.cut(pixels(datum, self._color))
            except (DecodeError, InputError) as error:
                name = key.decode(errors="backslashreplace")
                raise InputError(f"record {name!r}: {error}") from error
            samples.append(sample)
            cuts.append(cut)
            labels[index] = datum.label
        tops = stacked(samples), labels
        return Batch(tops if self._labelled else tops[:1], tuple(cuts))


def pixels(datum: caffe_pb2.Datum, color: bool | None) -> Array:
    """The values of a record as (C, H, W): bytes, or float32.

    Args:
        datum: The record.
        color: For encoded ones: True forces three channels, False one; None for their own.

    Raises:
        InputError: There are fewer values than the record says, or no image can be decoded.
    """
    if datum.encoded:
        return decode(datum.data, color)
    shape = (datum.channels, datum.height, datum.width)
    values: Array
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.array(datum.float_data, np.float32)
    if values.size < prod(shape):
        raise InputError(f"it has {values.size:,} values for {text(shape)}")
    return values[: prod(shape)].reshape(shape)


def stacked(samples: list[Array]) -> Array:
    """The batch of some samples.

    Raises:
        InputError: They differ in size.
    """
    different = {sample.shape for sample in samples}
    if len(different) > 1:
        sizes = " and ".join(text(shape) for shape in sorted(different)[:2])
        raise InputError(f"samples of one batch differ in size: {sizes}")
    return np.stack(samples)
