"""Writing a file so that no reader ever sees half of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``: under a temporary name first, then renamed.

    On any error ``path`` stays as it was and nothing is left beside it. What exists and is no
    regular file (a terminal, a pipe, /dev/null) is written to as it is.

    Raises:
        OSError: Naming ``path``: no such folder, no permission, disk full.
    """
    target = path.resolve()  # so that a link goes on pointing to the file
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # a read-only file system has refused the file before
            temporary.unlink(missing_ok=True)
