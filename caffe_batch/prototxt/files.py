"""Reads the bytes of a file and tells text, a binary message and anything else apart."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from caffe_batch.errors import PrototxtError, did_you_mean

#: Caffe's own limit for a file (kProtoReadBytesLimit in util/io.cpp).
MAX_BYTES = 2**31 - 1

#: The largest text that is read, in seconds; its tree takes some fifty times as much memory.
MAX_TEXT_BYTES = 16 * 2**20

# Control characters that no text editor writes; every binary net contains some (tags, lengths).
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")

_FOREIGN = {
    b"\xff\xfe": "It looks like UTF-16 text: save it as UTF-8.",
    b"\xfe\xff": "It looks like UTF-16 text: save it as UTF-8.",
    b"\x89HDF": "It is HDF5: give the .prototxt of the net, not its weights or data.",
    b"\x89PNG": "It is an image.",
    b"\xff\xd8\xff": "It is an image.",
    b"PK\x03\x04": "It is a zip archive: unpack it first.",
    b"\x1f\x8b": "It is gzip: unpack it first.",
}


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        PrototxtError: The file doesn't exist, is a directory, can't be read or is too large.
    """
    try:
        data, most = bytearray(), MAX_BYTES
        # Without waiting: nobody may ever write to a named pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            os.set_blocking(file.fileno(), True)
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            # In pieces, since read(n) takes n bytes of address space however small the file is.
            while len(data) <= most and (piece := file.read(1 << 20)):
                if not data and (not regular or piece[0] == 0 or not is_binary(piece)):
                    most = min(MAX_TEXT_BYTES, MAX_BYTES)  # no message begins with a tag of 0
                data += piece
    except FileNotFoundError:
        raise PrototxtError("there is no such file", path=path, hint=_neighbours(path)) from None
    except IsADirectoryError:
        raise PrototxtError(
            "this is a directory, not a file", path=path, hint=_contents(path)
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PrototxtError(f"the file can't be read: {reason}", path=path) from error
    if len(data) > most:
        what = "file" if most == MAX_BYTES else "text"
        raise PrototxtError(f"the {what} is larger than {most} bytes", path=path)
    if not data and not regular:
        raise PrototxtError("nobody writes anything to this pipe or device", path=path)
    return bytes(data)


def is_binary(data: bytes) -> bool:
    """Whether the bytes may be a binary message: they contain what no text editor writes."""
    return _CONTROL.search(data) is not None


def decode(data: bytes, path: str) -> str:
    """The text of a file. Bytes that are not UTF-8 become lone surrogates (PEP 383).

    As in Caffe, comments may contain such bytes; :func:`encode` restores them.

    Raises:
        PrototxtError: The file isn't text, or is too large.
    """
    try:
        text, binary = data.decode(), b"\0" in data
    except UnicodeDecodeError:
        text, binary = data.decode(errors="surrogateescape"), is_binary(data)
    if binary:
        hint = next((hint for magic, hint in _FOREIGN.items() if data.startswith(magic)), None)
        raise PrototxtError(
            "the file is neither text nor a binary net",
            path=path,
            hint=hint or "Give a .prototxt, or a .caffemodel that Caffe wrote.",
        )
    if len(data) > MAX_TEXT_BYTES:
        raise PrototxtError(f"the text is larger than {MAX_TEXT_BYTES} bytes", path=path)
    return text


def encode(text: str) -> bytes:
    """The bytes of a text that came from :func:`decode`, edited or not."""
    return text.encode(errors="surrogateescape")


def _neighbours(path: str) -> str | None:
    """A hint about what the path was perhaps meant to be."""
    folder = Path(path).parent
    if not folder.is_dir():
        return f"There is no directory {str(folder)!r} either."
    return did_you_mean(Path(path).name, sorted(os.listdir(folder)))


def _contents(path: str) -> str | None:
    found = sorted(Path(path).glob("*.prototxt"))[:3]
    return f"Give a file in it, such as {found[0]}." if found else None
