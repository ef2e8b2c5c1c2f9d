"""Caffe's log: one file after another, ``caffe.log.1`` the oldest, ``caffe.log`` the present one.

The worker itself goes on in a new file when the present one is large (worker_log.py); no line is
lost, and nothing is deleted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from caffe_batch.engines.caffe.inside.worker_log import change_names, next_number, numbered
from caffe_batch.engines.caffe.log_lines import read_log_line
from caffe_batch.engines.events import LogEvent

#: Lines kept for the failure text; a stack trace of Caffe's has about 30.
_TAIL_LINES = 200

#: So many of the files that were left are read on. A write that has begun takes less than that.
_READ_ON = 8


class LogFollower:
    """Reads what is added to a log, line by line, from file to file.

    A thread of the worker that was writing as the log went on in another file adds to the old one
    after that. So the files that were left last are read on, and the newest file is read first:
    what was written before a line that is read there has been read by then, or is read now. Each
    thread's lines thus keep their order.

    Attributes:
        tail: The last lines, oldest first.
    """

    def __init__(self, path: Path) -> None:
        change_names(str(path))  # for a worker that was killed before it could
        path.touch()
        self._path = path
        self._number = next_number(str(path))  # that the present file gets when it is left
        self._files = [_OpenFile(path)]
        self._files[0].skip()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def read(self) -> Iterator[LogEvent]:
        """The events of the lines that were completed since the last call."""
        while following := self._following():
            self._files.append(following)
        lines = [file.lines() for file in reversed(self._files)]
        while len(self._files) > 1 + _READ_ON:
            self._files.pop(0).close()
        for line in chain.from_iterable(reversed(lines)):
            text = line.decode("utf-8", errors="replace")
            self.tail.append(text)
            event = read_log_line(text)
            if event is not None:
                yield event

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _following(self) -> _OpenFile | None:
        """The file that the log goes on in after the newest one here, if there is one yet.

        By their numbers, which never change hands: the log's name goes from file to file.
        """
        try:
            if self._files[-1].is_at(self._path):
                return None
            present = _OpenFile(self._path)
        except FileNotFoundError:  # between the two changes of names
            return None
        if self._numbered().exists():  # else somebody took the log away
            self._number += 1
        if not self._numbered().exists():  # so the one under the log's name was the next
            return present
        present.close()
        return _OpenFile(self._numbered())

    def _numbered(self) -> Path:
        return Path(numbered(str(self._path), self._number))


class _OpenFile:
    """A file of a log, read from its begin."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        self._part = b""

    def skip(self) -> None:
        """Go on at its end."""
        self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[bytes]:
        """Those that were completed since the last call."""
        *lines, self._part = (self._part + self._file.read()).split(b"\n")
        return lines

    def is_at(self, path: Path) -> bool:
        """Whether it has this name."""
        return os.path.samestat(os.fstat(self._file.fileno()), path.stat())

    def close(self) -> None:
        self._file.close()
