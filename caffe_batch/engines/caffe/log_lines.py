"""What lines of Caffe's log say: events, by Caffe's wording (solver.cpp, Test)."""

from __future__ import annotations

import re

from caffe_batch.engines.events import LogEvent, NetTestOutput, NetTestStarted

_GLOG = r"[IWEF]\d{4}(?:\d{4})? \d{2}:\d{2}:\d{2}\.\d+\s+\d+ [^\s\]]+:\d+\] "
_TESTING = re.compile(_GLOG + r"Iteration (\d+), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(_GLOG + r"    Test net output #(\d+): (.*) = (\S+)( \(\* \S+ = \S+ loss\))?")


def read_log_line(line: str) -> LogEvent | None:
    """The event of one line of Caffe's log, or None for all other lines.

    >>> read_log_line("I0412 09:00:00.123456    77 solver.cpp:347] Iteration 9, Testing net (#0)")
    NetTestStarted(update=9, net=0)
    """
    testing = _TESTING.fullmatch(line)
    if testing:
        return NetTestStarted(int(testing[1]), int(testing[2]))
    output = _OUTPUT.fullmatch(line)
    if output:
        return NetTestOutput(int(output[1]), output[2], float(output[3]), output[4] is not None)
    return None
