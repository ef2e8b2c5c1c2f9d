"""Writing a file so that no reader ever sees half of it."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it, and nothing that only has a file's name.

    A named pipe would make the reader wait for ever, a device give bytes without end.

    Raises:
        OSError: It can't be opened, or isn't a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def not_a_file(path: Path) -> str | None:
    """Why ``path`` can't be a file to read, in words for after its name; None for a regular file.

    >>> not_a_file(Path("/"))
    'not a regular file'
    """
    if path.is_file():
        return None
    return "not a regular file" if path.exists() else "no such file"


def read_regular(path: Path) -> bytes:
    """The content of a file that :func:`open_regular` opens.

    Raises:
        OSError: As there.
    """
    with open_regular(path) as file:
        return file.read()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: under a temporary name first, then renamed.

    On any error ``path`` stays as it was and nothing is left beside it. What exists and is no
    regular file (a terminal, a pipe, /dev/null) is written to as it is.

    Raises:
        OSError: Naming ``path``: no such folder, no permission, disk full.
    """
    target = path.resolve()  # so that a link goes on pointing to the file
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    replace_bytes(target, content, named=path)


def replace_bytes(path: Path, content: bytes, *, named: Path | None = None) -> None:
    """Write ``content`` to ``path`` as :func:`write_bytes` does, but replace a link that is there.

    So the file is in the folder that the path names, wherever a link pointed to.

    Args:
        path: The file.
        content: All that it is to hold.
        named: What errors call it, if not ``path``.

    Raises:
        OSError: No such folder, no permission, disk full, or ``path`` is a folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # whatever it is, nothing is written through it
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(named or path)) from error
    finally:
        with suppress(OSError):  # a read-only file system has refused the file before
            temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, as :func:`replace_bytes` does.

    Raises:
        OSError: As there.
    """
    replace_bytes(path, text.encode(errors="surrogateescape"))


def is_plain_name(name: str) -> bool:
    """Whether a text names something in a folder, without leading out of it.

    >>> is_plain_name("net.prototxt"), is_plain_name("../net.prototxt"), is_plain_name("..")
    (True, False, False)
    """
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, as :func:`write_bytes` does.

    Raises:
        OSError: As there.
    """
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_picture(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Write what ``save`` writes, as :func:`write_bytes` does.

    Args:
        path: The picture.
        save: Writes it into a file that is given to it.

    Raises:
        OSError: As there.
    """
    picture = BytesIO()
    save(picture)
    write_bytes(path, picture.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, as :func:`replace_bytes` does: the files of a job stay in its directory.

    Raises:
        OSError: As there.
    """
    replace_text(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as a file has it; numbers that JSON doesn't have are text."""
    return json.dumps(_encodable(content), indent=2, allow_nan=False) + "\n"


def json_line(content: Mapping[str, Any]) -> str:
    """JSON in one line, without the end of the line."""
    return json.dumps(_encodable(content), allow_nan=False)


def _encodable(value: Any) -> Any:
    """The same with text in place of numbers that JSON doesn't have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each) for each in value]
    return value
