"""Protobuf's wire format, read by tags and lengths alone.

A field of a message of gigabytes is found without taking the memory of its values, and a cut
anywhere shows. Nothing is decoded that isn't asked for.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from caffe_batch.files import open_regular


class DamagedMessageError(ValueError):
    """Bytes that are no complete message. The text says so, without the file's folder."""


class WireMessage:
    """A message somewhere in a file, by its bounds; a context manager for a whole file."""

    def __init__(self, path: Path, data: mmap.mmap, start: int, end: int) -> None:
        self.path, self.size = path, end - start
        self._data, self._start, self._end = data, start, end

    def __enter__(self) -> WireMessage:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def messages(self, kind: Descriptor, field: str) -> Iterator[WireMessage]:
        """What a length-delimited field holds, each time that it occurs."""
        for value in self._values(kind, field):
            if isinstance(value, slice):
                yield WireMessage(self.path, self._data, value.start, value.stop)

    def texts(self, kind: Descriptor, field: str) -> Iterator[bytes]:
        """The bytes of a string field."""
        for message in self.messages(kind, field):
            yield self._data[message._start : message._end]

    def numbers(self, kind: Descriptor, field: str) -> Iterator[int]:
        """The values of an integer field that is not packed."""
        for value in self._values(kind, field):
            if isinstance(value, int):
                yield value

    def packed_numbers(self, kind: Descriptor, field: str) -> Iterator[int]:
        """The values of an integer field, packed or not."""
        yield from self.numbers(kind, field)
        for message in self.messages(kind, field):
            place = message._start
            while place < message._end:
                value, place = message._varint(place)
                yield value

    def _values(self, kind: Descriptor, field: str) -> Iterator[int | slice]:
        wanted = kind.fields_by_name[field].number
        place = self._start
        while place < self._end:
            tag, place = self._varint(place)
            number, wire_type = tag >> 3, tag & 7
            if number == 0:
                raise self._damage()
            value: int | slice
            if wire_type == 0:
                value, place = self._varint(place)
            else:
                if wire_type == 2:
                    size, place = self._varint(place)
                else:
                    size = {1: 8, 5: 4}.get(wire_type, -1)
                if size < 0 or place + size > self._end:
                    raise self._damage()
                value, place = slice(place, place + size), place + size
            if number == wanted:
                yield value

    def _varint(self, place: int) -> tuple[int, int]:
        """A number of seven bits a byte, lowest first, and the place behind it."""
        value = shift = 0
        while place < self._end and shift < 70:
            byte = self._data[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                return value, place
        raise self._damage()

    def _damage(self) -> DamagedMessageError:
        return DamagedMessageError(f"{self.path.name} is cut off or damaged")


def open_message(path: Path) -> WireMessage:
    """The message that a file holds.

    Raises:
        DamagedMessageError: The file is empty.
        OSError: It can't be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise DamagedMessageError(f"{path.name} is empty")
        return WireMessage(path, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), 0, size)
