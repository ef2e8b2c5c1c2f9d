"""Reads lines of Caffe's log: glog's prefix, and events in Caffe's wording (solver.cpp, Test)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caffe_batch.engines.events import LogEvent, NetTestOutput, NetTestStarted

# glog 0.6 and newer write the year as well. What a Python layer prints without a line feed, or what
# is left in the buffer of stdout, may stand before it.
_GLOG = re.compile(
    r"(?P<severity>[IWEF])(?P<time>\d{4}(?:\d{4})? \d{2}:\d{2}:\d{2}\.\d+)\s+(?P<thread>\d+) "
    r"(?P<place>[^\s\]]+:\d+)\] (?P<message>.*)"
)
_TESTING = re.compile(r"Iteration (\d+), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(r"    Test net output #(\d+): (.*) = (\S+)( \(\* \S+ = \S+ loss\))?")


@dataclass(frozen=True)
class GlogLine:
    """A line that glog wrote.

    Attributes:
        severity: ``I``, ``W``, ``E`` or ``F`` (fatal).
        time: As written: ``MMDD HH:MM:SS.ffffff``, since glog 0.6 preceded by the year.
        thread: Number of the thread that wrote it.
        place: File and line of Caffe's source, for example ``solver.cpp:347``.
        message: The rest.
    """

    severity: str
    time: str
    thread: str
    place: str
    message: str


def read_glog_line(line: str) -> GlogLine | None:
    """The parts of a line that glog wrote, or None for all other lines.

    >>> read_glog_line("F20261127 09:00:00.1  7 common.cpp:66] No GPU").message
    'No GPU'
    """
    match = _GLOG.search(line)
    return GlogLine(**match.groupdict()) if match else None


def unprefixed(line: str) -> str:
    """What stands in a line before glog's prefix; all of it if there is none.

    >>> unprefixed("printed I0412 09:00:00.1  7 net.cpp:84] Creating Layer conv1")
    'printed '
    """
    match = _GLOG.search(line)
    return line[: match.start()] if match else line


def read_log_line(line: str) -> LogEvent | None:
    """The event of one line of Caffe's log, or None for all other lines.

    >>> read_log_line("I0412 09:00:00.123456    77 solver.cpp:347] Iteration 9, Testing net (#0)")
    NetTestStarted(update=9, net=0)
    """
    written = read_glog_line(line)
    if written is None:
        return None
    testing = _TESTING.fullmatch(written.message)
    if testing:
        return NetTestStarted(int(testing[1]), int(testing[2]))
    output = _OUTPUT.fullmatch(written.message)
    if output:
        return NetTestOutput(int(output[1]), output[2], float(output[3]), output[4] is not None)
    return None
