"""Text files that list other files, read as Caffe reads them.

What isn't text isn't read: a source might just as well be a terabyte database, or a device.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import overload

from caffe_batch.errors import InputError
from caffe_batch.files import open_regular

#: How much of a file is read to tell whether it is text.
PREFIX_BYTES = 1 << 16
#: No path is longer on Linux (PATH_MAX), and a label needs little.
LONGEST_LINE = 1 << 13

#: How much of a list is in memory at a time.
BLOCK_BYTES = 1 << 16
_LONG_LINES = f"text with lines of more than {LONGEST_LINE:,} characters"

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_SIGNATURES = {
    HDF5_SIGNATURE: "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x93NUMPY": "a NumPy file",
}


class ListedLines(Sequence[bytes]):
    """The lines of a list as std::getline gives them: separated by line feeds and nothing else.

    The list is read once to count them; of its text only a block is held at any time.

    Raises:
        InputError: It isn't a list, or can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks = [(0, 0)]  # number and offset of a line in each block
        count = offset = 0
        last = b"\n"
        for block in _blocks(path):
            if b"\n" in block:
                self._marks.append((count + 1, offset + block.index(b"\n") + 1))
            count += block.count(b"\n")
            offset += len(block)
            last = block[-1:]
        self._count = count + (last != b"\n")
        self._held: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        mark = bisect_right(self._marks, index, key=itemgetter(0)) - 1
        if self._held[0] != mark:
            self._held = mark, self._between(mark)
        return self._held[1][index - self._marks[mark][0]]

    def _between(self, mark: int) -> list[bytes]:
        """The lines from one mark to the next."""
        _, start = self._marks[mark]
        end = self._marks[mark + 1][1] if mark + 1 < len(self._marks) else None
        with open_regular(self._path) as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start).split(b"\n")


def read_lines(path: Path) -> list[bytes]:
    """All lines of a list.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    lines = b"".join(_blocks(path)).split(b"\n")
    return lines if lines[-1] else lines[:-1]


def read_words(path: Path) -> Iterator[bytes]:
    """The words of a list as ``stream >> word`` gives them: separated by white space.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    for line in ListedLines(path):
        yield from line.split()


def lines_named_in(text: str, path: Path) -> list[int]:
    """The numbers of the lines of a list, 1 for the first, whose file a text names.

    A line is a path, or a path and a label after a blank.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    content = os.fsencode(text)
    found = []
    for number, line in enumerate(ListedLines(path), 1):
        names = (line.strip(), line.rpartition(b" ")[0])
        if any(name and name in content and _stands_alone(name, content) for name in names):
            found.append(number)
    return found


def _stands_alone(name: bytes, text: bytes) -> bool:
    """Whether a name in a text isn't a part of a longer one."""
    return re.search(rb"(?<![^\s])" + re.escape(name) + rb"(?![^\s,;])", text) is not None


def _blocks(path: Path) -> Iterator[bytes]:
    """The text of a list in blocks, each with a line feed in it, except for the last one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(
                f"{path} is not a readable list of files: it is {_kind(path)}",
                hint="source names a text file that lists the files, one per line.",
            )
        with open_regular(path) as file:
            start = file.read(PREFIX_BYTES)
            found = what_else(start)
            if found is not None:
                raise InputError(
                    f"{path} is not a readable list of files: it is {found}",
                    hint=f"source names a text file that lists the files, one per line; write "
                    f"{path.name!r} into one.",
                )
            block = start + file.read(BLOCK_BYTES)
            while block:
                if len(block) > LONGEST_LINE and b"\n" not in block:
                    raise InputError(
                        f"{path} is not a readable list of files: it is {_LONG_LINES}",
                        hint="source names a text file that lists the files, one per line.",
                    )
                yield block
                block = file.read(BLOCK_BYTES)
    except OSError as error:
        raise InputError(f"{path} is not a readable list of files: {error.strerror}") from error


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "a named pipe" if path.is_fifo() else "a device"


def what_else(start: bytes, *, binary: bool = False) -> str | None:
    """What a file with this beginning is; None if it may be a list (or any binary file)."""
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name
    if binary:
        return None
    if b"\0" in start:
        return "a binary file"
    if max(map(len, start.split(b"\n"))) > LONGEST_LINE:
        return _LONG_LINES
    return None
