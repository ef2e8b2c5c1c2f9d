"""What a worker says: events to its supervisor, and a log in the form and the words of Caffe's.

So whatever reads Caffe's log reads this one: the supervisor, the report, a person.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import Any

#: The place of a fatal line that tells what a Python layer has raised.
PYTHON_LAYER = "python_layer.hpp:1"


class Events:
    """The pipe to the process that started this worker.

    Args:
        descriptor: The number of its file descriptor.
        leads: Whether this is the first rank. The others only say what they refuse.

    Attributes:
        closed: Whether it is no longer read.
        built: Whether the nets are built: from then on nothing is refused.
    """

    def __init__(self, descriptor: int, *, leads: bool = True) -> None:
        self._descriptor, self._leads = descriptor, leads
        self.closed = self.built = False

    def send(self, event: str, **content: Any) -> None:
        """Write one event. If the reader is gone, that is noted, not raised."""
        self.built |= event == "built"
        if not self._leads:
            if event != "refused":
                return
            fatal(content["why"])  # the first rank may speak after it
        line = memoryview((json.dumps({**content, "event": event}) + "\n").encode("ascii"))
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            self.closed = True


class _Log:
    """Whether lines that only inform are written."""

    informs = True


def log_only_problems() -> None:
    """For ranks other than the first: from now on, write only what goes wrong."""
    _Log.informs = False


def log(message: str, place: str = "solver.py:1", severity: str = "I") -> None:
    """Write a line of the log, as glog does; whatever the message has in it, it is one line."""
    if severity == "I" and not _Log.informs:
        return
    now = datetime.now().strftime("%m%d %H:%M:%S.%f")
    message = message.replace("\n", r"\n")
    sys.stderr.write(f"{severity}{now} {os.getpid():5d} {place}] {message}\n")


def fatal(message: str, place: str = "worker.py:1") -> None:
    """Write why the worker ends."""
    log(message, place, "F")


def failed_layer(message: str) -> None:
    """Write why the worker ends, if a Python layer has raised."""
    log(message, PYTHON_LAYER, "F")


def number(value: float) -> str:
    """A number as C++ prints it."""
    return f"{value:.6g}"
