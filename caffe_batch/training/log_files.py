"""Caffe's log: one file after another, ``caffe.log.1`` the oldest, ``caffe.log`` the present one.

The worker itself goes on in a new file when the present one is large (worker_log.py); no line is
lost, and nothing is deleted.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from caffe_batch.training.events import LogEvent, read_log_line

#: Lines kept for the failure text; a stack trace of Caffe's has about 30.
_TAIL_LINES = 200


def log_files(log: Path) -> list[Path]:
    """The files of a log that are there, oldest first."""
    numbered = {}
    for path in log.parent.glob(f"{log.name}.*"):
        number = re.fullmatch(r"\d+", path.name[len(log.name) + 1 :])
        if number:
            numbered[int(number[0])] = path
    return [numbered[number] for number in sorted(numbered)] + [log] * log.is_file()


class LogFollower:
    """Reads what is added to a log, line by line, from file to file.

    Attributes:
        tail: The last lines, oldest first.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._part = b""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def read(self) -> Iterator[LogEvent]:
        """The events of the lines that were completed since the last call."""
        *lines, self._part = (self._part + self._read_bytes()).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", errors="replace")
            self.tail.append(text)
            event = read_log_line(text)
            if event is not None:
                yield event

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_bytes(self) -> bytes:
        data = self._file.read()
        while following := self._next():
            data += self._file.read()  # the worker had left it before: this is its end
            self._file.close()
            self._file = following
            data += self._file.read()
        return data

    def _next(self) -> BinaryIO | None:
        """The file that the log goes on in after this one, open, if there is one yet."""
        try:
            path = self._following()
            file = path.open("rb") if path else None
        except FileNotFoundError:  # one is being renamed
            return None
        if file is None:
            return None
        # Its name may have gone to a later file between the look and the opening.
        try:
            now = self._following()
            same = now is not None and os.path.samestat(os.fstat(file.fileno()), now.stat())
        except FileNotFoundError:
            same = False
        if same:
            return file
        file.close()
        return None

    def _following(self) -> Path | None:
        here = os.fstat(self._file.fileno())
        if os.path.samestat(here, self._path.stat()):
            return None
        files = log_files(self._path)
        places = [n for n, file in enumerate(files) if os.path.samestat(here, file.stat())]
        if not places:
            return self._path
        return files[places[0] + 1] if places[0] + 1 < len(files) else None
