"""What a worker died of, found in its log: the first fatal line, exception or error.

Every thread writes into the same log, and the others go on writing while one dies: what follows the
cause may be thousands of lines long, and may stand between any two lines of it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from caffe_batch.engines.caffe.fatal_lines import Suspect, fatal, first_fatal
from caffe_batch.engines.caffe.log_lines import GlogLine, read_glog_line, unprefixed

#: How many of the last lines are kept; one of Caffe's stack traces has about 30.
TAIL_LINES = 200

#: How many lines before the first fatal one are kept, and how many from there on.
_BEFORE, _BLOCK = 20, 100

_SEVERITIES = ("I", "W", "E", "F")

# What libstdc++ writes, in several pieces, about an exception that nothing caught.
_UNCAUGHT = re.compile(r"terminate called after throwing an instance of '(?:([\w:<>, ]+)'$)?")
_TERMINATED = "terminate called"
_WHAT = re.compile(r"  what\(\):  (.*)")

# glog's signal handler, and a frame of its stack trace.
_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) \(@\S+\) received by ")
_FRAME = re.compile(r"\s+@\s+(?:0x[0-9a-f]+|\(nil\))\s+(\S.*)")

# Caffe's words at the beginning of a test and of the building of a test net, and after them
# (solver.cpp). A net without outputs ends a test without a word.
_TEST_BEGINS = re.compile(r"\] (?:Iteration \d+, Testing|Creating test) net \(#(\d+)\)")
_TEST_ENDS = ("]     Test net output #", "] Solver scaffolding done.", "] Solving ")

_TRACEBACK = "Traceback (most recent call last):"
_PYTHON_FRAME = re.compile(r'  File "(.*)", line (\d+)(?:, in (.*))?')
_PYTHON_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Iteration)(?:: .*)?")

# The script in whose traceback an exception ends that nothing has caught.
_WORKERS = ("/train.py", "/noise.py", "/verify.py")

# What Boost turns a Python layer's error into after printing it.
_CONSEQUENCE = "returned NULL without setting an error"


#: How many lines of parting words are shown.
_PARTING_LINES = 4


class Kind(Enum):
    """What kind of words describe a cause."""

    #: glog's fatal line.
    CHECK = auto()
    #: An exception of C++ that nothing caught.
    EXCEPTION = auto()
    #: An exception of Python that nothing caught.
    PYTHON = auto()


@dataclass(frozen=True)
class Cause:
    """What a worker died of.

    Attributes:
        kind: Whose words they are.
        message: The words.
        end: Index of the line that ends it in the log; what follows is a consequence.
        place: File and line of the source, as far as they are known.
        before: What led to it, as logged just before; may be empty.
    """

    kind: Kind
    message: str
    end: int
    place: str = ""
    before: str = ""

    @property
    def sentence(self) -> str:
        """All of it, in one line."""
        place = f" ({self.place})" if self.place else ""
        return f"{self.message}{place}" + (f"; before that: {self.before}" if self.before else "")


class TellingLines:
    """Keeps what matters of a log of any length: its last lines, and those around the cause.

    Args:
        keep: How many last lines; None for all.
    """

    def __init__(self, keep: int | None = TAIL_LINES) -> None:
        # Each line, and the one of glog's before it: by its time a fatal line is known.
        self._last: deque[tuple[str | None, str]] = deque(maxlen=keep)
        self._block: list[tuple[str | None, str]] = []
        self._count = self._block_at = 0
        self._suspect: Suspect | None = None  # which the block is about
        self._before: str | None = None

    def add(self, line: str) -> None:
        """Take in the next line."""
        written = read_glog_line(line) if line[:1] in _SEVERITIES else None
        if self._suspect and written:
            self._compare(self._suspect, written)
        if self._block:
            if len(self._block) < _BEFORE + _BLOCK:
                self._block.append((self._before, line))
        elif self._may_be_fatal(line):
            self._block = [*list(self._last)[-_BEFORE:], (self._before, line)]
            self._block_at = self._count + 1 - len(self._block)
        self._last.append((self._before, line))
        self._count += 1
        if written and written.severity != "F":
            self._before = line

    def _may_be_fatal(self, line: str) -> bool:
        written = fatal(line)
        if written is None:
            return _UNCAUGHT.search(unprefixed(line)) is not None or bool(_SIGNAL.match(line))
        before = read_glog_line(self._before or "")
        self._suspect = Suspect(written, [before] if before else [])
        return self._suspect.in_time

    def _compare(self, suspect: Suspect, later: GlogLine) -> None:
        """Give the block up if its line turns out not to have been fatal."""
        if later.severity != "F":
            suspect.compare(later)
        if suspect.went_on or not suspect.in_time:
            self._suspect, self._block = None, []

    def lines(self) -> tuple[str, ...]:
        """The lines around the first fatal one, and the last lines, oldest first.

        What is left out before them ends with a line of glog's, if there is any.
        """
        missing = self._count - len(self._last) - self._block_at
        kept = [*self._block[: max(0, missing)], *self._last]
        before = [kept[0][0]] if kept and kept[0][0] else []
        return (*before, *(line for _, line in kept))


def find_cause(log: Sequence[str]) -> Cause | None:
    """The first thing in a log that a process doesn't survive; None if there is none.

    >>> find_cause(["F0412 09:00:00.1  7 common.cpp:99] No GPU", "*** Check failure"]).sentence
    'No GPU (common.cpp:99)'
    """
    place, written = first_fatal(log) or (len(log), None)
    for index, line in enumerate(log[: place + 1]):
        if written and index == place:
            before = _complaint_before(log[:index], written)
            return Cause(Kind.CHECK, written.message, index, written.place, before)
        uncaught = _UNCAUGHT.search(unprefixed(line))
        if uncaught:
            what = next(_matches(_WHAT, log, index), None)
            words = [uncaught[1] or "", what[1][1] if what else ""]
            return Cause(Kind.EXCEPTION, ": ".join(filter(None, words)), what[0] if what else index)
        if line == _TRACEBACK and _reaches_the_script(log, index):
            return python_error(log)
    return None


def python_error(log: Sequence[str]) -> Cause | None:
    """The last Python error in a log that isn't the mere consequence of another one."""
    found = [*_tracebacks(log), *_bare_errors(log)]
    causes = [cause for cause in found if not cause.message.endswith(_CONSEQUENCE)]
    return max(causes or found, key=lambda cause: cause.end, default=None)


def parting_words(log: Sequence[str]) -> str:
    """What a log ends with that isn't one of the engine's lines; empty if it ends with one.

    ``sys.exit("text")`` leaves nothing but its text, and exit status 1.

    >>> parting_words(["I0412 09:00:00.1  7 net.cpp:1] Creating", "no labels here", ""])
    'no labels here'
    """
    words: list[str] = []
    for line in reversed(log):
        if read_glog_line(line) or is_stack_trace(line) or len(words) == _PARTING_LINES:
            break
        words += [line.strip()] if line.strip() else []
    return " ".join(reversed(words))


def crash_place(log: Sequence[str]) -> str:
    """The function of Caffe that a signal ended, from glog's stack trace; empty if not known."""
    start = next(_matches(_SIGNAL, log), None)
    if start is None:
        return ""
    names = [match[1] for _, match in _matches(_FRAME, log, start[0])]
    return next((name for name in names if name.startswith("caffe::")), "")


def net_under_test(log: Sequence[str]) -> int | None:
    """The test net that the last lines of a log build or run; None if they are about another."""
    net = None
    for line in log:
        begun = _TEST_BEGINS.search(line)
        if begun:
            net = int(begun[1])
        elif any(words in line for words in _TEST_ENDS):
            net = None
    return net


def is_stack_trace(line: str) -> bool:
    """Whether a line belongs to a stack trace of glog's."""
    return line.startswith("*** ") or _FRAME.fullmatch(line) is not None


def _complaint_before(log: Sequence[str], fatal: GlogLine) -> str:
    """What the same thread, or protobuf, complained about just before; empty if nothing new."""
    for line in reversed(log[-_BEFORE:]):
        if line.startswith("[libprotobuf ERROR"):
            return line.partition("] ")[2]
        written = read_glog_line(line)
        if written is None or written.thread != fatal.thread:
            continue
        message = written.message.strip()
        if written.severity != "E" or not message or message.split()[-1] in fatal.message:
            return ""
        return f"{message} ({written.place})"
    return ""


def _matches(
    pattern: re.Pattern[str], log: Sequence[str], start: int = 0
) -> Iterator[tuple[int, re.Match[str]]]:
    """The lines in which a pattern is found, with their indices."""
    for index in range(start, len(log)):
        match = pattern.search(log[index])
        if match:
            yield index, match


def _reaches_the_script(log: Sequence[str], start: int) -> bool:
    """Whether the outermost frame of a traceback is the worker's script."""
    frame = next(_matches(_PYTHON_FRAME, log, start), None)
    return frame is not None and frame[1][1].endswith(_WORKERS) and frame[1][3] == "<module>"


def _tracebacks(log: Sequence[str]) -> Iterator[Cause]:
    """The error of each traceback, with the innermost place in code that isn't a library's."""
    for start, line in enumerate(log):
        if line != _TRACEBACK:
            continue
        place = ""
        for index in range(start + 1, len(log)):
            text = log[index]
            frame = _PYTHON_FRAME.fullmatch(text)
            if frame and _is_own(frame[1]):
                place = f"{frame[1]}:{frame[2]}"
            if text.startswith(" ") or not text or read_glog_line(text):
                continue
            yield Cause(Kind.PYTHON, _whole_message(log, index), index, place)
            break


def _whole_message(log: Sequence[str], index: int) -> str:
    """The message of a Python error, which may have several lines."""
    lines = [log[index]]
    for text in log[index + 1 : index + 4]:
        is_other = text == _TRACEBACK or text.startswith(_TERMINATED) or read_glog_line(text)
        if not text.strip() or is_other or is_stack_trace(text):
            break
        lines.append(text.strip())
    return " ".join(lines)


def _bare_errors(log: Sequence[str]) -> Iterator[Cause]:
    """Errors without a traceback, such as those of a module's syntax."""
    for index, line in enumerate(log):
        if _PYTHON_ERROR.fullmatch(line):
            frames = [match for _, match in _matches(_PYTHON_FRAME, log[max(0, index - 3) : index])]
            place = f"{frames[-1][1]}:{frames[-1][2]}" if frames and not frames[-1][3] else ""
            yield Cause(Kind.PYTHON, line, index - 1, place)  # a traceback's own reading goes first


def _is_own(file: str) -> bool:
    """Whether a file may be a Python layer's, and isn't a library's or a worker's."""
    inside = (
        "/site-packages/", "/dist-packages/", "/lib/python", "/engines/caffe/inside/",
        "/engines/torch/", ".pyx", "<",
    )  # fmt: skip
    return not any(part in file for part in inside)
