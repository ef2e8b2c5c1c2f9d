"""A look at data that is there already: a data set, pictures, a database, HDF5 files, or a list.

Of a large source a sample is read, always with the first and the last records.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from caffe_batch.datasets.description import DESCRIPTION, Dataset, Part, read_dataset
from caffe_batch.datasets.pictures import (
    DamagedPictureError,
    decoded,
    encoded,
    require_reader,
    shrunk,
)
from caffe_batch.datasets.sources import Item, Naming, find_pictures
from caffe_batch.errors import InputError
from caffe_batch.files import not_a_file, open_regular, read_regular
from caffe_batch.net.data.database import open_database, sample
from caffe_batch.net.data.extras import extra
from caffe_batch.net.data.listing import HDF5_SIGNATURE, read_words
from caffe_batch.net.data.survey import evenly
from caffe_batch.schema import caffe_pb2

#: How many records of a source are read unless all are asked for.
RECORDS = 10_000
#: How many pictures of a folder or a list are opened; of HDF5 rows, how many are looked at.
OPENED = 1_000
#: How many pictures are shown of a class, and of how many classes.
SHOWN, SHOWN_CLASSES = 6, 40
#: The longest side of a shown picture.
SHOWN_SIDE = 128
#: How many problems are named.
_NAMED = 20
#: The most values of a dataset that is read as pictures.
_MOST_VALUES = 1 << 28

#: Called with the name of a source, how many of its records are read, and how many will be.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shown:
    """A picture to show: its label, its name in the source, and a small PNG file."""

    label: int | None
    name: str
    png: bytes


@dataclass
class Viewed:
    """What was found in one source.

    Attributes:
        name: What it is called.
        kind: ``LMDB``, ``LevelDB``, ``HDF5``, ``pictures``.
        records: How many it has.
        read: How many of them were read.
        bytes: Its size on the disk; None if it isn't added up.
        encoded: How many of the records that were read are image files.
        shapes: How many of those that were read have each shape (C, H, W).
        by_class: How many of those that were read have each label.
        datasets: HDF5 only: shape and type of each.
        shown: Some of the pictures.
        problems: What is wrong, in sentences; ``faulty`` records in all.
    """

    name: str
    kind: str
    records: int = 0
    read: int = 0
    bytes: int | None = None
    encoded: int = 0
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    by_class: Counter[int] = field(default_factory=Counter)
    datasets: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    faulty: int = 0

    @property
    def complete(self) -> bool:
        """Whether all records were read."""
        return self.read >= self.records

    def fault(self, text: str) -> None:
        """Take in something that is wrong with a record."""
        self.faulty += 1
        if len(self.problems) < _NAMED:
            self.problems.append(text)

    def wants(self, label: int | None) -> bool:
        """Whether one more picture of a class is to be shown."""
        labels = Counter(each.label for each in self.shown)
        return labels[label] < SHOWN and (label in labels or len(labels) < SHOWN_CLASSES)

    def json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "name": self.name,
            "kind": self.kind,
            "records": self.records,
            "read": self.read,
            "bytes": self.bytes,
            "encoded": self.encoded,
            "shapes": [
                {"shape": list(shape), "records": number}
                for shape, number in self.shapes.most_common()
            ],
            "by_class": {str(label): self.by_class[label] for label in sorted(self.by_class)},
            "datasets": {
                name: {"shape": list(shape), "type": kind}
                for name, (shape, kind) in self.datasets.items()
            },
            "faulty": self.faulty,
            "problems": self.problems,
        }


@dataclass(frozen=True)
class Look:
    """What a path leads to.

    Attributes:
        path: The path.
        kind: ``data set``, ``pictures``, ``LMDB``, ``LevelDB``, ``HDF5`` or ``list``.
        parts: The sources there: the sets of a data set, the files of a list of HDF5 files.
        labels: Names of the classes, by label; empty if they aren't known.
        dataset: The description, if there is one.
        notes: What a user should know, in sentences.
    """

    path: Path
    kind: str
    parts: tuple[Viewed, ...]
    labels: tuple[str, ...] = ()
    dataset: Dataset | None = None
    notes: tuple[str, ...] = ()

    def class_name(self, label: int) -> str:
        """The name of a class; empty if it isn't known."""
        return self.labels[label] if 0 <= label < len(self.labels) else ""

    def json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "parts": [part.json() for part in self.parts],
            "labels": list(self.labels),
            "dataset": None if self.dataset is None else self.dataset.json(),
            "notes": list(self.notes),
        }


def look_at(
    path: Path,
    *,
    complete: bool = False,
    root: Path | None = None,
    progress: Progress = lambda name, done, records: None,
) -> Look:
    """A look at whatever data a path leads to.

    Args:
        path: A data set of ``caffe-batch data``, a folder of pictures, an LMDB or LevelDB, an HDF5
            file, or a list of pictures or of HDF5 files.
        complete: Read every record.
        root: Where the paths of a list begin.
        progress: Called from time to time.

    Raises:
        InputError: It is none of them, can't be read, or needs a package that isn't installed.
    """
    require_reader()
    task = _Task(complete, progress)
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            return _of_dataset(path, task)
        for name, kind in (("data.mdb", "LMDB"), ("CURRENT", "LevelDB")):
            if (path / name).is_file():
                return Look(path, kind, (task.database(path, path.name, lmdb=kind == "LMDB"),))
        return _of_pictures(path, root, task)
    problem = not_a_file(path)
    if problem:
        raise InputError(
            f"{path}: {problem}", hint="Name a data set, pictures, a database, or a list."
        )
    with open_regular(path) as file:
        start = file.read(len(HDF5_SIGNATURE))
    if start == HDF5_SIGNATURE:
        return Look(path, "HDF5", (task.hdf5(path),))
    if path.name in ("data.mdb", "CURRENT"):
        return look_at(path.parent, complete=complete, progress=progress)
    listed = _hdf5_files(path, root)
    if listed:
        return Look(path, "list", tuple(map(task.hdf5, listed)))
    return _of_pictures(path, root, task)


def _of_dataset(path: Path, task: _Task) -> Look:
    dataset = read_dataset(path)
    parts, notes = list[Viewed](), list[str]()
    for part in filter(None, (dataset.train, dataset.test)):
        viewed = task.database(dataset.path(part.source), part.source, lmdb=True)
        parts.append(viewed)
        notes += _contradictions(viewed, part)
    return Look(path, "data set", tuple(parts), dataset.labels, dataset, tuple(notes))


def _contradictions(viewed: Viewed, part: Part) -> Iterator[str]:
    """Where a database isn't what its description says."""
    if viewed.records != part.records:
        yield (
            f"{part.source} has {viewed.records:,} records, and {DESCRIPTION} says "
            f"{part.records:,}: it was changed."
        )
    elif viewed.complete:
        counts = tuple(viewed.by_class[label] for label in range(len(part.by_class)))
        if counts != part.by_class:
            yield f"{part.source} has other labels than {DESCRIPTION} says: it was changed."


def _of_pictures(path: Path, root: Path | None, task: _Task) -> Look:
    found = find_pictures(path, root=root, naming=Naming(renumber=True, one_class=True))
    sets = [("train" if found.test else path.name, found.train)]
    sets += [("test", found.test)] if found.test else []
    parts = tuple(task.pictures(name, items) for name, items in sets)
    kind = "pictures" if path.is_dir() else "list"
    return Look(path, kind, parts, found.classes, notes=found.notes)


def _hdf5_files(path: Path, root: Path | None) -> list[Path]:
    """The files of a list of HDF5 files; empty if it is another list."""
    names = list(islice(read_words(path), 100_001))
    files = [(root or Path()) / os.fsdecode(name) for name in names]
    beside = [path.parent / os.fsdecode(name) for name in names]
    chosen = [one if one.is_file() else other for one, other in zip(files, beside, strict=True)]
    if not chosen or chosen[0].suffix.lower() not in (".h5", ".hdf5"):
        return []
    for file in chosen:
        problem = not_a_file(file)
        if problem:
            raise InputError(f"{path} lists {file}: {problem}")
    return chosen


@dataclass(frozen=True)
class _Task:
    """How to look."""

    complete: bool
    progress: Progress

    def database(self, path: Path, name: str, *, lmdb: bool) -> Viewed:
        """An LMDB or LevelDB."""
        found = Viewed(name, "LMDB" if lmdb else "LevelDB")
        found.bytes = sum(each.stat().st_size for each in path.iterdir() if each.is_file())
        with open_database(path, lmdb=lmdb) as database:
            found.records = database.records
            wanted = database.records if self.complete else min(RECORDS, database.records)
            records = database.forward() if self.complete else sample(database, RECORDS)
            for key, value in records:
                found.read += 1
                _see_datum(found, key.decode(errors="backslashreplace"), value)
                if found.read % 256 == 0 or found.read == wanted:
                    self.progress(name, found.read, wanted)
        return found

    def pictures(self, name: str, items: tuple[Item, ...]) -> Viewed:
        """Image files."""
        found = Viewed(name, "pictures", records=len(items), encoded=len(items))
        found.by_class.update(item.label for item in items)
        chosen = evenly(len(items), len(items) if self.complete else OPENED)
        for number, index in enumerate(chosen, start=1):
            item = items[index]
            found.read += 1
            try:
                data = read_regular(item.path)
                picture = decoded(data, gray=False)
            except DamagedPictureError as error:
                found.fault(f"{item.name}: {error}")
            except OSError as error:
                found.fault(f"{item.name}: {error.strerror}")
            else:
                height, width = picture.pixels.shape[:2]
                found.shapes[1 if picture.gray else 3, height, width] += 1
                if found.wants(item.label):
                    found.shown.append(Shown(item.label, item.name, _png(picture.pixels)))
            self.progress(name, number, len(chosen))
        return found

    def hdf5(self, path: Path) -> Viewed:
        """An HDF5 file."""
        h5py = extra("h5py", "hdf5", f"HDF5 file {path}")
        found = Viewed(path.name, "HDF5", bytes=path.stat().st_size)
        try:
            with h5py.File(path, "r") as file:
                for name in file:
                    data = file[name]
                    if hasattr(data, "dtype") and data.shape is not None:
                        found.datasets[name] = tuple(map(int, data.shape)), str(data.dtype)
                rows = [shape[0] for shape, _ in found.datasets.values() if shape]
                found.records = max(rows, default=0)
                found.read = found.records if self.complete else min(OPENED, found.records)
                _see_rows(found, file)
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{path} is not a readable HDF5 file ({error})") from error
        self.progress(path.name, found.read, found.read)
        return found


def _see_datum(found: Viewed, key: str, value: bytes) -> None:
    """Take in a record of a database."""
    import numpy as np

    datum = caffe_pb2.Datum()
    try:
        datum.ParseFromString(value)
    except DecodeError:
        found.fault(f"record {key!r} is no Datum")
        return
    found.by_class[datum.label] += 1
    shape = (datum.channels, datum.height, datum.width)
    if datum.encoded:
        found.encoded += 1
        try:
            picture = decoded(datum.data, gray=False)
        except DamagedPictureError as error:
            found.fault(f"record {key!r}: {error}")
            return
        height, width = picture.pixels.shape[:2]
        found.shapes[1 if picture.gray else 3, height, width] += 1
        if found.wants(datum.label):
            found.shown.append(Shown(datum.label, key, _png(picture.pixels)))
        return
    found.shapes[shape] += 1
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data)
    if len(values) != shape[0] * shape[1] * shape[2]:
        found.fault(f"record {key!r} has {len(values):,} values for {' x '.join(map(str, shape))}")
    elif len(values) and found.wants(datum.label):
        found.shown.append(Shown(datum.label, key, _png(_from_planes(values.reshape(shape)))))


def _see_rows(found: Viewed, file: Any) -> None:
    """Take in the labels and pictures of an HDF5 file."""
    import numpy as np

    labels: Any = None
    for name, (shape, _) in found.datasets.items():
        is_flat = bool(shape) and all(size == 1 for size in shape[1:])
        if is_flat and "label" in name.lower() and file[name].dtype.kind in "iuf":
            labels = np.asarray(file[name][: found.read], np.float64).ravel()
            whole = labels[np.isfinite(labels) & (labels == np.trunc(labels))]
            found.by_class.update(map(int, whole))
            break
    for name, (shape, _) in found.datasets.items():
        if file[name].dtype.kind not in "iuf" or len(shape) != 4 or not all(shape):
            continue
        found.shapes[shape[1:]] += found.read
        if shape[1] not in (1, 3) or shape[1] * shape[2] * shape[3] * SHOWN > _MOST_VALUES:
            continue
        for row in evenly(shape[0], SHOWN * SHOWN_CLASSES):
            label = None
            if labels is not None and row < len(labels) and np.isfinite(labels[row]):
                label = int(labels[row])
            if found.wants(label):
                planes = np.asarray(file[name][row])
                found.shown.append(Shown(label, f"{name}, row {row}", _png(_from_planes(planes))))


def _from_planes(planes: Any) -> Any:
    """Pixels to show (H, W, 1 or 3) of values (C, H, W): bytes as they are, others stretched."""
    import numpy as np

    if planes.dtype != np.uint8:
        values = np.nan_to_num(np.asarray(planes, np.float64), posinf=0, neginf=0)
        low, high = values.min(), values.max()
        planes = ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    if planes.shape[0] not in (1, 3):
        planes = planes[:1]
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _png(pixels: Any) -> bytes:
    """A small picture of some pixels."""
    return encoded(shrunk(pixels, SHOWN_SIDE), "png")
