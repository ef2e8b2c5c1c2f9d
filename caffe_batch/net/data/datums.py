"""The records of a Data layer: Datums in an LMDB or LevelDB; and those of SSD's AnnotatedData.

Source: data_layer.cpp, data_transformer.cpp, io.cpp (DecodeDatumToCVMat); weiliu89/caffe (ssd),
annotated_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from google.protobuf.message import DecodeError

from caffe_batch.errors import InputError
from caffe_batch.layers.base import Shape
from caffe_batch.net.data.blob_file import text
from caffe_batch.net.data.database import Database, open_database, sample
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import Level, Place
from caffe_batch.net.data.pictures import encoded_shape
from caffe_batch.net.data.survey import SAMPLE, Find, Survey, Task, Wanted
from caffe_batch.schema import caffe_pb2

#: How many records are read between two calls of the progress callback.
_STEP = 1024


def survey_datums(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at the source of a Data layer.

    Raises:
        InputError: It isn't a database of this kind, or its first record can't be read.
    """
    return _survey(layer, find, task, _Reader)


def survey_annotated(layer: caffe_pb2.LayerParameter, find: Find, task: Task) -> Survey:
    """A look at the source of an AnnotatedData layer: images with boxes.

    Raises:
        InputError: It isn't a database of this kind, or its first record can't be read.
    """
    return _survey(layer, find, task, _AnnotatedReader)


def _survey(layer: caffe_pb2.LayerParameter, find: Find, task: Task, kind: type[_Reader]) -> Survey:
    settings = layer.data_param
    path = find(settings.source)
    found = Survey()
    reader = kind(layer, task, found)
    with open_database(path, lmdb=settings.backend == caffe_pb2.DataParameter.LMDB) as database:
        found.records = database.records
        chosen = database.forward() if task.complete else sample(database, SAMPLE)
        reader.read(chosen, settings.source, database)
    if not found.sizes:
        first = next(iter(found.tally.findings(layer.name)))
        raise InputError(f"the first record of {path} is {first.message}", hint=first.hint)
    found.shapes = (max(found.sizes, key=prod),)
    return found


class _Reader:
    kind = "Datum"

    def __init__(self, layer: caffe_pb2.LayerParameter, task: Task, found: Survey) -> None:
        transform = layer.transform_param
        self.color = True if transform.force_color else False if transform.force_gray else None
        plain = transform.scale == 1 and not transform.mean_value and not transform.mean_file
        self.of_label = [wanted for wanted in task.wanted if wanted.top == 1]
        # After a transformation, the values are no longer those of the records.
        self.of_data = [wanted for wanted in task.wanted if wanted.top == 0 and plain]
        self.task, self.found = task, found
        self._datum = caffe_pb2.Datum()

    def read(self, records: Iterable[tuple[bytes, bytes]], source: str, database: Database) -> None:
        for key, value in records:
            place = Place(source, record=f"record {key.decode(errors='backslashreplace')!r}")
            try:
                datum = self.parse(value)
            except DecodeError as error:
                self.found.tally.add(Level.ERROR, "datum", f"no {self.kind} ({error})", place)
            else:
                self.datum(datum, place)
            if not self.found.sizes:
                return  # whatever can't be read of the first record is reported separately
            self.found.read += 1
            if self.found.read % _STEP == 0 or self.found.read == database.records:
                self.task.progress(source, self.found.read, database.records)

    def parse(self, value: bytes) -> caffe_pb2.Datum:
        """The image of a record.

        Raises:
            DecodeError: It has none.
        """
        self._datum.ParseFromString(value)
        return self._datum

    def datum(self, datum: caffe_pb2.Datum, place: Place) -> None:
        """Look at one record."""
        found = self.found
        for wanted in self.of_label:
            found.see(wanted, datum.label, place)
        if datum.encoded:
            try:
                shape, image = encoded_shape(datum.data, self.color)
            except MissingExtraError:
                raise
            except InputError as error:
                found.tally.add(Level.ERROR, "encoded", error.message, place)
                return
            found.sizes.setdefault(shape, place)
            if self.of_data and image.mode == "L" and shape[0] == 1:
                try:
                    counts = image.histogram()
                except OSError as error:
                    found.tally.add(Level.ERROR, "encoded", f"no readable image ({error})", place)
                    return
                values: Iterable[float] = [value for value in range(256) if counts[value]]
                self.values(values, shape, place)
            return
        shape = (datum.channels, datum.height, datum.width)
        found.sizes.setdefault(shape, place)
        values = datum.data or datum.float_data
        if len(values) < prod(shape):
            found.tally.add(
                Level.ERROR,
                "short",
                f"it has {len(values):,} values for {text(shape)}; Caffe reads past their end",
                place,
            )
        elif self.of_data:
            self.values(values, shape, place)

    def values(self, values: Iterable[float], shape: Shape, place: Place) -> None:
        """Take in the values of a record that is itself read as labels."""
        different = set(values)
        for wanted in self.of_data:
            if not wanted.region:
                for value in different:
                    self.found.see(wanted, value, place)
            elif _only_channels(wanted) and isinstance(values, bytes):
                _, first, end = wanted.region[0]
                size = shape[1] * shape[2]
                for value in set(values[first * size : end * size]):
                    self.found.see(wanted, value, place)


class _AnnotatedReader(_Reader):
    """Reads the images of AnnotatedDatums; its labels are boxes, or those of the images."""

    kind = "AnnotatedDatum"

    def __init__(self, layer: caffe_pb2.LayerParameter, task: Task, found: Survey) -> None:
        super().__init__(layer, task, found)
        self._annotated = caffe_pb2.AnnotatedDatum()
        if layer.HasField("annotated_data_param"):
            self.of_label = []

    def parse(self, value: bytes) -> caffe_pb2.Datum:
        self._annotated.ParseFromString(value)
        if not self._annotated.HasField("datum"):  # what a Datum looks like to this message
            raise DecodeError("it has no image; is it a Datum, for a Data layer?")
        return self._annotated.datum


def _only_channels(wanted: Wanted) -> bool:
    return len(wanted.region) == 1 and wanted.region[0][0] == 0
