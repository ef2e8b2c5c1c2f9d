"""Text files that list other files, read as Caffe reads them.

What isn't text isn't read: a source might just as well be a terabyte database, or a device.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.files import open_regular

#: How much of a file is read to tell whether it is text.
PREFIX_BYTES = 1 << 16
#: No path is longer on Linux (PATH_MAX), and a label needs little.
LONGEST_LINE = 1 << 13

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


def read_lines(path: Path) -> list[bytes]:
    """The lines of a list as std::getline gives them: separated by line feeds and nothing else.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    lines = _read_list(path).split(b"\n")
    return lines if lines[-1] else lines[:-1]


def read_words(path: Path) -> list[bytes]:
    """The words of a list as ``stream >> word`` gives them: separated by white space.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    return _read_list(path).split()


def lines_named_in(text: str, path: Path) -> list[int]:
    """The numbers of the lines of a list, 1 for the first, whose file a text names.

    A line is a path, or a path and a label after a blank.

    Raises:
        InputError: It isn't a list, or can't be read.
    """
    told = os.fsencode(text)
    found = []
    for number, line in enumerate(read_lines(path), 1):
        names = (line.strip(), line.rpartition(b" ")[0])
        if any(name and name in told and _stands_alone(name, told) for name in names):
            found.append(number)
    return found


def _stands_alone(name: bytes, text: bytes) -> bool:
    """Whether a name in a text isn't a part of a longer one."""
    return re.search(rb"(?<![^\s])" + re.escape(name) + rb"(?![^\s,;])", text) is not None


def _read_list(path: Path) -> bytes:
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
            return start + file.read()
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
        return f"text with lines of more than {LONGEST_LINE:,} characters"
    return None
