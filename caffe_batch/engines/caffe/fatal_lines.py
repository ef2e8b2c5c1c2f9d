"""glog's fatal lines, and lines of a log that merely look like one.

A net's names may be anything, and Caffe writes them into its log. What no name can know beforehand
is when and by which thread it will be written: a thread writes nothing after its fatal line, and
the time of a line lies between the times of the lines around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caffe_batch.engines.caffe.log_lines import GlogLine, read_glog_line

#: How much older than a line before it a line may be: a thread takes the time, then waits until it
#: can write.
_LATE_S = 60.0

_DAY_S = 86_400
_YEAR_S = 12 * 31 * _DAY_S  # as if every month had 31 days: a later moment has a larger number


class Suspect:
    """A line that says it is fatal, and whether the lines around it bear that out.

    Args:
        line: Its parts.
        before: Lines before it that aren't fatal.

    Attributes:
        line: Its parts.
        in_time: Whether its time lies between those of the other lines.
        went_on: Whether its thread has written more.
    """

    def __init__(self, line: GlogLine, before: Iterable[GlogLine]) -> None:
        self.line = line
        self.in_time = all(_after_s(line, other) >= -_LATE_S for other in before)
        self.went_on = False

    def compare(self, later: GlogLine) -> None:
        """Take in a line after it that isn't fatal."""
        self.in_time &= _after_s(later, self.line) >= -_LATE_S
        self.went_on |= later.thread == self.line.thread


def fatal(line: str) -> GlogLine | None:
    """The parts of a line that is fatal or looks like it; None for all other lines."""
    written = read_glog_line(line) if "F" in line else None
    return written if written and written.severity == "F" else None


def first_fatal(log: Sequence[str]) -> tuple[int, GlogLine] | None:
    """Where a log's first fatal line is, and its parts; None if there is none.

    Where no line is in time (somebody may have set the clock), it is the first whose thread has
    written nothing more.
    """
    suspects: dict[int, Suspect] = {}
    latest: list[GlogLine] = []  # the latest line so far, if there is one
    for index, text in enumerate(log):
        line = read_glog_line(text)
        if line is None:
            continue
        if line.severity == "F":
            suspects[index] = Suspect(line, latest)
            continue
        if not latest or _after_s(line, latest[0]) > 0:
            latest = [line]
        for place, each in list(suspects.items()):
            each.compare(line)
            if each.went_on:
                del suspects[place]
    in_time = [place for place, each in suspects.items() if each.in_time]
    return next(((place, suspects[place].line) for place in (*in_time, *suspects)), None)


def _after_s(line: GlogLine, other: GlogLine) -> float:
    """How long after another line one was written, as their times say: at most half a year."""
    apart = _moment_s(line) - _moment_s(other)
    return (apart + _YEAR_S / 2) % _YEAR_S - _YEAR_S / 2


def _moment_s(line: GlogLine) -> float:
    """The time of a line, since the year began."""
    date, clock = line.time.split(" ")
    hours, minutes, seconds = clock.split(":")
    days = int(date[-4:-2]) * 31 + int(date[-2:])
    return days * _DAY_S + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
