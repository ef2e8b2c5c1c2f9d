"""Caffe's log: one file after another, ``caffe.log.1`` the oldest, ``caffe.log`` the current one.

The worker itself starts a new file when the current one is large (worker_log.py); no line is lost,
and nothing is deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from caffe_batch.engines.caffe.causes import TAIL_LINES, TellingLines
from caffe_batch.engines.caffe.inside.worker_log import change_names, next_number, numbered
from caffe_batch.engines.caffe.log_lines import read_log_line
from caffe_batch.engines.events import LogEvent
from caffe_batch.files import open_regular

#: How many of the completed files are still read. A write that has begun takes less time than that.
_READ_ON = 8


class LogFollower:
    """Reads what is added to a log, line by line, from file to file.

    A worker thread that was writing when a new file was started still adds to the old one. So the
    most recent of the old files are still read, and the newest file is read first: what was written
    before a line in it has been read by then, or is read now. Each thread's lines thus keep their
    order.

    Args:
        path: The log; what is in it already is passed over.
        keep: How many of the last lines are kept; None for all.
    """

    def __init__(self, path: Path, keep: int | None = TAIL_LINES) -> None:
        change_names(str(path))  # for a worker that was killed before it could
        path.touch()
        self._path = path
        self._number = next_number(str(path))  # of the current file, once it is full
        self._files = [_OpenFile(path)]
        self._files[0].skip()
        self._telling = TellingLines(keep)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first, also one without an end; before them the first fatal one.

        A worker that dies may leave the last line unfinished.
        """
        unfinished = [_text(file.part) for file in self._files if file.part]
        return (*self._telling.lines(), *unfinished)

    def read(self) -> Iterator[LogEvent]:
        """The events of the lines completed since the last call."""
        while following := self._following():
            self._files.append(following)
        lines = [file.lines() for file in reversed(self._files)]
        while len(self._files) > 1 + _READ_ON:
            self._files.pop(0).close()
        for line in chain.from_iterable(reversed(lines)):
            text = _text(line)
            self._telling.add(text)
            event = read_log_line(text)
            if event is not None:
                yield event

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _following(self) -> _OpenFile | None:
        """The file in which the log continues after the newest one here, if there is one yet.

        It is found by number, which is never reused: the log's name moves from file to file.
        """
        try:
            if self._files[-1].is_at(self._path):
                return None
            present = _OpenFile(self._path)
        except FileNotFoundError:  # between the two changes of names
            return None
        if self._numbered().exists():  # otherwise the log was moved away
            self._number += 1
        if not self._numbered().exists():  # so the one under the log's name was the next
            return present
        present.close()
        return _OpenFile(self._numbered())

    def _numbered(self) -> Path:
        return Path(numbered(str(self._path), self._number))


class _OpenFile:
    """A file of a log, read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open_regular(path)
        self.part = b""  # of a line that isn't complete yet

    def skip(self) -> None:
        """Move to its end."""
        self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[bytes]:
        """The lines completed since the last call."""
        *lines, self.part = (self.part + self._file.read()).split(b"\n")
        return lines

    def is_at(self, path: Path) -> bool:
        """Whether it has this name."""
        return os.path.samestat(os.fstat(self._file.fileno()), path.stat())

    def close(self) -> None:
        self._file.close()


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
