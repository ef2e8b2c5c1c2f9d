"""dataset.json: what a data set is, for everything that reads it later. Its only reader and writer.

Paths in it are relative to its folder, which may be moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.errors import InputError
from caffe_batch.files import is_plain_name, json_text, not_a_file, read_regular

#: The name of the file.
DESCRIPTION = "dataset.json"
#: The names of the classes, a line each.
LABELS = "labels.txt"
#: The format that this version writes, and the newest that it reads.
FORMAT = 1


@dataclass(frozen=True)
class Part:
    """One set.

    Attributes:
        source: The database, relative to the folder.
        records: How many it has.
        by_class: How many of each class, by label.
    """

    source: str
    records: int
    by_class: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set as dataset.json describes it.

    Attributes:
        folder: Where it is.
        backend: ``lmdb``.
        encoded: Whether the records are image files instead of pixels.
        shape: Channels, height and width of a record; None if they differ.
        labels: Names of the classes, by label.
        train, test: The sets; ``test`` may be None.
        mean_file: The mean image, relative to the folder; None if the records differ in size.
        mean_values: The mean of each channel: blue, green, red, or gray.
        settings: How the pictures were converted.
        resized_by: What resized them; empty if nothing did.
        set_aside: How many files could not be used; set_aside.csv names them.
        duplicates: How many test pictures the training set has as well; duplicates.csv names them.
    """

    folder: Path
    backend: str
    encoded: bool
    shape: tuple[int, int, int] | None
    labels: tuple[str, ...]
    train: Part
    test: Part | None
    mean_file: str | None
    mean_values: tuple[float, ...]
    settings: Mapping[str, Any]
    resized_by: str = ""
    set_aside: int = 0
    duplicates: int = 0

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.labels)

    def path(self, name: str) -> Path:
        """A file or database of the set."""
        return self.folder / name

    def json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "format": FORMAT,
            "caffe_batch": __version__,
            "backend": self.backend,
            "encoded": self.encoded,
            "channel_order": "gray" if len(self.mean_values) == 1 else "BGR",
            "shape": None if self.shape is None else list(self.shape),
            "classes": self.classes,
            "labels": list(self.labels),
            "labels_file": LABELS,
            "train": _part_json(self.train),
            "test": None if self.test is None else _part_json(self.test),
            "mean_file": self.mean_file,
            "mean_values": list(self.mean_values),
            "set_aside": self.set_aside,
            "duplicates": self.duplicates,
            "settings": dict(self.settings),
            "resized_by": self.resized_by,
        }

    def to_text(self) -> str:
        """The text of the file."""
        return json_text(self.json())


def read_dataset(folder: Path) -> Dataset:
    """The data set in a folder.

    Raises:
        InputError: There is none, or its description is damaged or of a newer version.
    """
    path = folder / DESCRIPTION
    problem = not_a_file(path)
    if problem:
        raise InputError(
            f"{folder} is no data set: {path}: {problem}",
            hint="`caffe-batch data SOURCE --out DIR` makes one of a folder of pictures.",
        )
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return _Reader(path).dataset(found)


class _Reader:
    """Takes the fields out of the file, each checked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def dataset(self, found: Any) -> Dataset:
        number = self._take(found, "format", int)
        if number > FORMAT:
            raise InputError(
                f"{self._path} has format {number}, and this version reads up to {FORMAT}",
                hint="Use a newer caffe-batch.",
            )
        shape, mean_file = found.get("shape"), found.get("mean_file")
        labels = self._list(found, "labels", str)
        test = found.get("test")
        return Dataset(
            folder=self._path.parent,
            backend=self._take(found, "backend", str),
            encoded=self._take(found, "encoded", bool),
            shape=None if shape is None else self._shape(found),
            labels=tuple(labels),
            train=self._part(self._take(found, "train", dict), len(labels)),
            test=None if test is None else self._part(self._take(found, "test", dict), len(labels)),
            mean_file=None if mean_file is None else self._name(found, "mean_file"),
            mean_values=tuple(map(float, self._list(found, "mean_values", (int, float)))),
            settings=found.get("settings") or {},
            resized_by=str(found.get("resized_by", "")),
            set_aside=self._take({"set_aside": 0, **found}, "set_aside", int),
            duplicates=self._take({"duplicates": 0, **found}, "duplicates", int),
        )

    def _part(self, found: Any, classes: int) -> Part:
        counts = self._list(found, "by_class", int)
        records = self._take(found, "records", int)
        if len(counts) != classes or sum(counts) != records:
            raise InputError(f"{self._path}: 'by_class' doesn't add up to the records")
        return Part(self._name(found, "source"), records, tuple(counts))

    def _shape(self, found: Any) -> tuple[int, int, int]:
        sizes = self._list(found, "shape", int)
        if len(sizes) != 3 or min(sizes) < 1:
            raise InputError(f"{self._path}: 'shape' is no channels, height and width")
        return sizes[0], sizes[1], sizes[2]

    def _name(self, found: Any, field: str) -> str:
        name: str = self._take(found, field, str)
        if not is_plain_name(name):
            raise InputError(f"{self._path}: {field!r} doesn't name something in its folder")
        return name

    def _list(self, found: Any, field: str, kind: Any) -> list[Any]:
        values: list[Any] = self._take(found, field, list)
        if not all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
            raise InputError(f"{self._path}: {field!r} has a value of the wrong type")
        return values

    def _take(self, found: Any, field: str, kind: Any) -> Any:
        value = found.get(field) if isinstance(found, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self._path}: {field!r} is missing or has the wrong type")
        return value


def _part_json(part: Part) -> dict[str, Any]:
    return {"source": part.source, "records": part.records, "by_class": list(part.by_class)}
