"""What is in a data layer's source: the shape of a record, and how many there are.

A quick look (:mod:`caffe_batch.net.data`) reads a sample of the records, and the headers of all
HDF5 files. Readers that need an optional library say which extra installs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffe_batch.errors import InputError, InputShapeError, Option, separated
from caffe_batch.layers.base import Rule, Shape
from caffe_batch.layers.facts import SourceKind
from caffe_batch.layers.given import Given, WholeShape, spelled
from caffe_batch.net.data.datums import survey_annotated, survey_datums
from caffe_batch.net.data.findings import no_progress
from caffe_batch.net.data.hdf5 import survey_hdf5
from caffe_batch.net.data.images import survey_images
from caffe_batch.net.data.pairs import survey_pairs
from caffe_batch.net.data.survey import Find, Survey, Task
from caffe_batch.net.data.windows import survey_windows
from caffe_batch.schema import caffe_pb2
from caffe_batch.terminal import one_line


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a source.

    Attributes:
        shapes: Shape of one record for each top that the source decides, without the batch axis;
            that of the largest one if they differ.
        records: How many records there are.
        file_rows: HDF5 only: how many of them are in the largest file.
        unequal: Whether the records differ in size, so that Caffe takes them only one by one.
        estimated: Whether there are so many files that ``records`` is an estimate.
    """

    shapes: tuple[Shape, ...]
    records: int
    file_rows: int | None = None
    unequal: bool = False
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class RecordSizes:
    """What a layer's rule has to know about its source.

    Attributes:
        shapes: Shape of one record, for each top that the source decides; None without a source.
        file_rows, unequal: As in :class:`Contents`, if the source was read.
        unread: Why it wasn't, where the layer may do without.
    """

    shapes: tuple[Shape, ...] | None = None
    file_rows: int | None = None
    unequal: bool = False
    unread: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where data is looked up, and what the user said about it.

    Attributes:
        directories: Relative paths are tried from each in turn (Caffe: the working directory).
        input_shapes: Shapes that the user gave by top name (``--input-shape``); these win.
        batch_size: The batch of data layers without a rule that don't have it written.
    """

    directories: tuple[Path, ...] = (Path(),)
    input_shapes: Mapping[str, Given] | None = None
    batch_size: int | None = None
    _seen: dict[bytes, Contents] = field(default_factory=dict, repr=False, compare=False)

    def records(self, layer: caffe_pb2.LayerParameter, rule: Rule) -> RecordSizes:
        """What a layer's rule has to know about its source: what was given, or else what is there.

        Args:
            layer: The layer.
            rule: The rule of its type.

        Raises:
            InputShapeError: The source can't be read and no shape was given; it names the option
                that gives one.
        """
        tops = _decided_tops(layer, rule)
        given = {top: self._record(layer, rule, top) for top in tops}
        missing = [top for top, record in given.items() if record is None]
        if tops and not missing:
            return RecordSizes(tuple(record for record in given.values() if record is not None))
        if not has_records(rule):
            return RecordSizes()
        try:
            found = self.contents(layer, rule)
        except InputError as error:
            if not is_readable(rule):  # its settings may say all that is needed
                return RecordSizes(unread=one_line(error.message))
            options = [Option("input_shape", f"{top}=CxHxW") for top in missing]
            raise InputShapeError(
                f"the size of {layer.top[0] if layer.top else 'its top'!r} is not known: "
                f"{one_line(error.message)}",
                layer=layer.name,
                hint=[
                    *([error.hint, " "] if error.hint else []), "Or give the size: ",
                    *separated(options, " "), ".",
                ],
            ) from error  # fmt: skip
        shapes = tuple(
            given.get(top) or shape for top, shape in zip(tops, found.shapes, strict=False)
        )
        return RecordSizes(shapes or found.shapes, found.file_rows, found.unequal)

    def contents(self, layer: caffe_pb2.LayerParameter, rule: Rule) -> Contents:
        """Shapes and number of records of a data layer's source, from a quick look at it.

        Each layer's source is looked at only once.

        Args:
            layer: The layer.
            rule: The rule of its type; :func:`has_records` must be true for it.

        Raises:
            InputError: The source is missing, empty, damaged, or needs a library that isn't there.
        """
        key = layer.SerializeToString()
        if key not in self._seen:
            found = survey_source(layer, rule, self.find, _QUICK)
            self._seen[key] = Contents(
                found.shapes,
                found.records,
                found.file_rows,
                unequal=len(found.sizes) > 1,
                estimated=found.estimated,
            )
        return self._seen[key]

    def find(self, source: str) -> Path:
        """The first existing path of a source.

        Raises:
            InputError: It has no name, or isn't anywhere.
        """
        if not source:
            raise InputError("the layer names no source")
        for directory in self.directories:
            path = directory / source
            if os.path.exists(path):
                return path
        tried = " or ".join(dict.fromkeys(str(each.resolve()) for each in self.directories))
        raise InputError(f"source {source!r} is not in {tried}")

    def given(self, layer: caffe_pb2.LayerParameter) -> tuple[Given | None, ...]:
        """The shape that the user gave for each top of a layer, or None; empty if for none."""
        found = tuple((self.input_shapes or {}).get(top) for top in layer.top)
        return () if all(each is None for each in found) else found

    def _record(self, layer: caffe_pb2.LayerParameter, rule: Rule, top: str) -> Shape | None:
        """The shape of a record that the user gave for a top, also as part of a whole shape."""
        given = (self.input_shapes or {}).get(top)
        if not isinstance(given, WholeShape):
            return given
        batch = getattr(layer, rule.message).batch_size if rule.has_batch_size else 1
        if given.sizes and given.at(batch)[0] == batch:
            return given.sizes[1:]
        raise InputShapeError(
            [
                f"a batch of {batch} contradicts ", Option("input_shape", spelled(top, given)),
                ", which has another first axis",
            ],
            layer=layer.name,
            hint="Write N for the batch.",
        )  # fmt: skip


def is_readable(rule: Rule) -> bool:
    """Whether a layer of this type reads records whose size it needs, in a way of Caffe's own."""
    return rule.source is not None and rule.source.kind in _READERS


def has_records(rule: Rule) -> bool:
    """Whether a layer of this type reads records that :meth:`Sources.contents` can look at."""
    return is_readable(rule) or (rule.source is not None and rule.source.kind in _OF_FORKS)


def can_be_looked_at(rule: Rule) -> bool:
    """Whether :func:`survey_source` reads the source of a layer of this type."""
    return rule.source is not None and rule.source.kind in _LOOKS


def is_list(rule: Rule) -> bool:
    """Whether the source of such a layer is a text file that lists the files to read."""
    return rule.source is not None and rule.source.kind in _LISTS


def survey_source(layer: caffe_pb2.LayerParameter, rule: Rule, find: Find, task: Task) -> Survey:
    """A look at a source; :func:`can_be_looked_at` must be true for the rule.

    Raises:
        InputError: The source is missing, empty, damaged, or needs a library that isn't there.
    """
    assert rule.source is not None  # noqa: S101  # readable
    return _LOOKS[rule.source.kind](layer, find, task)


def source_of(layer: caffe_pb2.LayerParameter, rule: Rule) -> str:
    """The path of a layer's source as the layer gives it; empty if it gives none."""
    return str(getattr(layer, rule.message).source) if rule.source is not None else ""


def _decided_tops(layer: caffe_pb2.LayerParameter, rule: Rule) -> Sequence[str]:
    """The tops whose shape the source decides, or the user where no source is known."""
    if rule.source is None:
        return layer.top if rule.has_batch_size else ()
    return layer.top if rule.source.decides_all_tops else layer.top[:1]


Reader = Callable[[caffe_pb2.LayerParameter, Find, Task], Survey]

#: The reader for each kind of source.
_READERS: dict[SourceKind, Reader] = {
    SourceKind.DATABASE: survey_datums,
    SourceKind.IMAGE_LIST: survey_images,
    SourceKind.HDF5_LIST: survey_hdf5,
}

#: Those of forks' data layers, whose settings often say the size.
_OF_FORKS: dict[SourceKind, Reader] = {
    SourceKind.ANNOTATED: survey_annotated,
    SourceKind.IMAGE_PAIRS: survey_pairs,
}

#: The same, and the reader of those whose records have no size of their own.
_LOOKS: dict[SourceKind, Reader] = {
    **_READERS,
    **_OF_FORKS,
    SourceKind.WINDOW_FILE: survey_windows,
}

_LISTS = (
    SourceKind.IMAGE_LIST,
    SourceKind.IMAGE_PAIRS,
    SourceKind.HDF5_LIST,
    SourceKind.WINDOW_FILE,
)

_QUICK = Task(wanted=(), complete=False, progress=no_progress)
