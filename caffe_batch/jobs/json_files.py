"""The JSON files of a job: read field by field, and written so that nothing in them is lost.

Every file has a ``format`` number; files of version 0.1.0 have none, which is format 1. Keys that
this version doesn't know are kept and written back, so a program may add its own. A file of a newer
format is refused as it stands.

JSON has no number for nan, inf, or 1e999: nan and inf are written as text. Where a file has such a
number all the same, it is read as the text that stands there, and a message shows it as it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, overload

from caffe_batch import __version__
from caffe_batch.errors import Call, InputError, Text
from caffe_batch.files import is_plain_name, read_regular

T = TypeVar("T")
D = TypeVar("D")

#: What writes a job.
PLAN_A_JOB = Call("`caffe-batch plan NET ... --out DIR`", "caffe_batch.plan(NET, ...).write(DIR)")

#: The format of files that don't say theirs.
FIRST_FORMAT = 1

#: Integers from here on, in either direction, count nothing that a job has.
_INTEGER_BOUND = 2**63

#: Seconds from here on (300 years) are no time that a training took.
_SECONDS_BOUND = 1e10

#: What stands for the numbers that JSON doesn't have, as Python's str and json write them.
_NOT_FINITE = ("nan", "inf", "-inf", "NaN", "Infinity", "-Infinity")

#: Characters of a value that a message quotes.
_QUOTED = 60


class NoNumber(str):
    """The text of a number that JSON doesn't have, or that is too large for a float."""

    __slots__ = ()


class NewerFormatError(InputError):
    """A file of a format that only a later version of caffe-batch knows. Exit code 2."""


class Fields:
    """The fields of one JSON object of a file; each method reads one as the type it must have.

    Every method that reads a field raises an InputError which names the file, the field, what was
    expected and what is there.

    Args:
        path: The file, for messages.
        content: What stands where the object should be.
        place: The object's place in the file, such as ``attempts[0]``; empty for the whole file.
        hint: What to try where a field is wrong; None for nothing.
    """

    def __init__(
        self, path: Path, content: object, place: str = "", hint: Text | None = None
    ) -> None:
        self.path, self.hint, self._place = path, hint, place
        if not isinstance(content, dict):
            raise self._wrong(place or "the file", "a JSON object", content)
        self.content: dict[str, Any] = content

    def integer(self, name: str, least: int = 0) -> int:
        """An integer, at least ``least``."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, "an integer", value)
        if not least <= value < _INTEGER_BOUND:
            raise self._wrong(name, f"an integer from {least} on", value)
        return value

    def counts(self, name: str) -> dict[str, int]:
        """An object of integers from 0 on."""
        inner = self._inner(name, self._get(name))
        return {key: inner.integer(key) for key in inner.content}

    def positive(self, name: str) -> int:
        """An integer above 0."""
        return self.integer(name, least=1)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, "a number", value)
        if abs(value) >= _INTEGER_BOUND and isinstance(value, int):
            raise self._wrong(name, "a number", value)
        return float(value)

    def real(self, name: str) -> float:
        """A number; nan and the infinities as well, for which JSON has text."""
        value = self.content.get(name)
        return float(value) if value in _NOT_FINITE else self.number(name)

    def seconds(self, name: str) -> float:
        """Seconds that something took: from 0 on, and fewer than 300 years have."""
        value = self.number(name)
        if not 0 <= value < _SECONDS_BOUND:
            raise self._wrong(name, "seconds", value)
        return value

    def text(self, name: str) -> str:
        """Text that can be printed and can name a file."""
        return self._text(name, self._get(name))

    def file_name(self, name: str) -> str:
        """The name of a file beside this one, without a path."""
        value = self.text(name)
        if not is_plain_name(value):
            raise self._wrong(name, "the name of a file in this directory", value)
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def moment(self, name: str) -> str:
        """A time in ISO 8601, as text."""
        value = self.text(name)
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise self._wrong(name, "a time in ISO 8601", value) from None
        return value

    def choice(self, name: str, of: Callable[[str], T], known: str) -> T:
        """Text that names a member of an enum.

        Args:
            name: The field.
            of: The enum, or what else makes a value of the text or raises a ValueError.
            known: The texts there are, for messages.
        """
        value = self.text(name)
        try:
            return of(value)
        except ValueError:
            raise self._wrong(name, f"one of {known}", value) from None

    def choices(self, name: str, of: Callable[[str], T], known: str) -> tuple[T, ...]:
        """A list of texts, each as in :meth:`choice`."""
        values = self.texts(name)
        try:
            return tuple(map(of, values))
        except ValueError:
            raise self._wrong(name, f"some of {known}", list(values)) from None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(place, value) for place, value in self._list(name))

    def steps(self, name: str) -> tuple[str | int, ...]:
        """A list of names and of numbers from 0 on: the way to a field of a message."""
        values = dict(self._list(name))
        inner = Fields(self.path, values, self._place, self.hint)
        return tuple(
            inner.integer(place) if type(value) is int else inner.text(place)
            for place, value in values.items()
        )

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers from 0 on."""
        values = dict(self._list(name))
        inner = Fields(self.path, values, self._place, self.hint)
        return tuple(inner.integer(place) for place in values)

    def several_seconds(self, name: str) -> tuple[float, ...]:
        """A list of times, each as in :meth:`seconds`."""
        values = dict(self._list(name))
        inner = Fields(self.path, values, self._place, self.hint)
        return tuple(inner.seconds(place) for place in values)

    def nested(self, name: str) -> Fields:
        """An object."""
        return self._inner(name, self._get(name))

    def objects(self, name: str) -> tuple[Fields, ...]:
        """A list of objects."""
        return tuple(self._inner(place, value) for place, value in self._list(name))

    @overload
    def maybe(self, read: Callable[[str], T], name: str) -> T | None: ...

    @overload
    def maybe(self, read: Callable[[str], T], name: str, default: D) -> T | D: ...

    def maybe(self, read: Callable[[str], T], name: str, default: D | None = None) -> T | D | None:
        """What ``read`` makes of a field, or ``default`` where it is missing or null."""
        return default if self.content.get(name) is None else read(name)

    def beside(self, known: Collection[str]) -> dict[str, Any]:
        """The fields other than the known ones, as they are."""
        return {name: value for name, value in self.content.items() if name not in known}

    def _inner(self, name: str, value: object) -> Fields:
        return Fields(self.path, value, f"{self._place}.{name}" if self._place else name, self.hint)

    def _get(self, name: str) -> object:
        if name not in self.content:
            where = f" in {self._place}" if self._place else ""
            raise InputError(f"{self.path}: there is no {name}{where}", hint=self.hint)
        return self.content[name]

    def _list(self, name: str) -> list[tuple[str, object]]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        return [(f"{name}[{number}]", each) for number, each in enumerate(value)]

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or isinstance(value, NoNumber):
            raise self._wrong(name, "text", value)
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise self._wrong(name, "text without lone surrogates", value) from None
        return value

    def _wrong(self, name: str, expected: str, found: object) -> InputError:
        shown = found if isinstance(found, NoNumber) else json.dumps(found)
        shown = shown if len(shown) <= _QUOTED else f"{shown[:_QUOTED]}..."
        place = f"{self._place}.{name}" if self._place and self._place != name else name
        return InputError(
            f"{self.path}: {place} should be {expected}, found {shown}", hint=self.hint
        )


def read_object(path: Path, hint: Text | None = None) -> Fields:
    """The object that a JSON file holds.

    Args:
        path: The file.
        hint: What to try where it, or a field of it, is damaged.

    Raises:
        InputError: It holds something else.
        OSError: It can't be read.
    """
    try:
        content = parse(read_regular(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})", hint=hint) from error
    return Fields(path, content, hint=hint)


def parse(text: bytes) -> object:
    """What a JSON text in UTF-8 says.

    Raises:
        ValueError: It is no JSON, or not UTF-8.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_float=_float, parse_constant=NoNumber)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_format(fields: Fields, newest: int) -> int:
    """The format of a file.

    Args:
        fields: The object that says it.
        newest: The newest format that this version reads.

    Raises:
        NewerFormatError: It is newer.
        InputError: It is no number of a format.
    """
    found = fields.maybe(fields.positive, "format", FIRST_FORMAT)
    if found > newest:
        writer = fields.content.get("caffe_batch_version")
        by = f" of caffe-batch {writer}" if isinstance(writer, str) and writer.isprintable() else ""
        raise NewerFormatError(
            f"{fields.path} has format {found}{by}, and caffe-batch {__version__} reads formats "
            f"up to {newest}",
            hint="Use a newer caffe-batch. Nothing was changed.",
        )
    return found


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else NoNumber(text)
