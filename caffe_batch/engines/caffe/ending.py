"""Why a worker ended: a reason from its exit status, its last event and the last log lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence

from caffe_batch.engines import base
from caffe_batch.engines.caffe.log_lines import fatal_line
from caffe_batch.engines.events import Diverged, Finished, Refused, Stopped, WorkerEvent
from caffe_batch.errors import Text
from caffe_batch.jobs.ending import Ending, EndReason

#: What to try next, by reason.
HINTS: Mapping[EndReason, Text] = {
    **base.HINTS,
    EndReason.NOT_MAPPED: "The database is mapped as a whole, whatever the batch size: raise the "
    "limit of the address space (`ulimit -v`).",
}

_PYTHON_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Iteration)(?:: .*)?")

# What Boost turns a Python layer's error into after printing it.
_CONSEQUENCE = "returned NULL without setting an error"

# Caffe's words for an allocation that failed: cudaMalloc, cuBLAS and cuDNN handles (common.cpp,
# device_alternate.hpp) and the host allocator (syncedmem.hpp).
_GPU_MEMORY = re.compile(r"\bcudaSuccess \(2 vs\. 0\)|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(
    r"host allocation of size \d+ failed|std::bad_alloc|\bMemoryError\b|Cannot allocate memory"
)

# A database is mapped as a whole, whatever the batch size: no smaller split makes room for it.
_NOT_MAPPED = re.compile(r"\bmdb_status == 0 \(12 vs\. 0\)")


# Caffe's words for a snapshot that could not be written (io.cpp).
_NOT_WRITTEN = "SerializeToOstream"


def classify(status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
    """The reason of an ending.

    Args:
        status: Exit status as in :mod:`subprocess`. A shell in between turns signal n into
            128 + n; that is understood as well.
        last_word: The last event that the worker sent, or None.
        log: The last lines of its log, oldest first: enough to include the failed check above the
            stack trace.
    """
    if isinstance(last_word, Finished):
        return Ending(EndReason.FINISHED, "all updates are done", status)
    if isinstance(last_word, Stopped):
        return Ending(EndReason.INTERRUPTED, f"stopped after update {last_word.update}", status)
    if isinstance(last_word, Refused):
        return Ending(EndReason.REFUSED, last_word.why, status, last_word.wants)
    if isinstance(last_word, Diverged):
        what = (
            "weights are not finite" if last_word.loss is None else f"loss is {last_word.loss:.6g}"
        )
        return Ending(EndReason.DIVERGED, f"after update {last_word.update} the {what}", status)
    text = "\n".join(log)
    if _GPU_MEMORY.search(text):
        return Ending(EndReason.GPU_MEMORY, _failed_check(log) or "out of GPU memory", status)
    if _NOT_MAPPED.search(text):
        return Ending(EndReason.NOT_MAPPED, _failed_check(log) or "no address space", status)
    if _HOST_MEMORY.search(text):
        return Ending(EndReason.HOST_MEMORY, _failed_check(log) or "out of memory", status)
    failed = _failed_check(log)
    if failed and _NOT_WRITTEN in failed:
        return Ending(EndReason.SNAPSHOT_LOST, failed, status)
    if failed:
        return Ending(EndReason.CHECK_FAILED, failed, status)
    number = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    if number == signal.SIGKILL:
        return Ending(EndReason.KILLED, "killed by SIGKILL", status)
    if number:
        return Ending(EndReason.CRASHED, f"ended by {_signal_name(number)}", status)
    errors = [line for line in log if _PYTHON_ERROR.fullmatch(line)]
    if errors:
        causes = [line for line in errors if not line.endswith(_CONSEQUENCE)]
        return Ending(EndReason.PYTHON_ERROR, (causes or errors)[-1], status)
    return Ending(EndReason.UNKNOWN, f"ended early with exit status {status}", status)


def last_lines(log: Sequence[str], count: int = 8) -> list[str]:
    """The last informative lines: without stack traces and empty lines."""
    telling = [
        line
        for line in log
        if line.strip() and not re.match(r"\s*@\s+0x|\*\*\* |\s+@ +\(unknown\)", line)
    ]
    return telling[-count:]


def _failed_check(log: Sequence[str]) -> str | None:
    fatal = fatal_line(log)
    return f"{fatal.message} ({fatal.place})" if fatal else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
