"""Why a worker ended: a reason from its exit status, its last event and the last log lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence

from caffe_batch.engines import base
from caffe_batch.engines.caffe.causes import (
    Cause,
    Kind,
    crash_place,
    find_cause,
    is_stack_trace,
    net_under_test,
    parting_words,
    python_error,
)
from caffe_batch.engines.events import Diverged, Finished, Refused, Stopped, WorkerEvent
from caffe_batch.errors import Text
from caffe_batch.jobs.ending import Ending, EndReason

#: What to try next, by reason.
HINTS: Mapping[EndReason, Text] = {
    **base.HINTS,
    EndReason.NOT_MAPPED: "The database is mapped as a whole, whatever the batch size: raise the "
    "limit of the address space (`ulimit -v`).",
}

# Caffe's words for an allocation that failed: cudaMalloc, cuBLAS and cuDNN handles (common.cpp,
# device_alternate.hpp) and the host allocator (syncedmem.hpp).
_GPU_MEMORY = re.compile(r"\bcudaSuccess \(2 vs\. 0\)|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(
    r"host allocation of size \d+ failed|std::bad_alloc|Cannot allocate memory"
    r"|(?<![A-Za-z])(?:_Array)?MemoryError\b"  # Python's and numpy's
    r"|Insufficient memory"  # OpenCV
)

# A database is mapped as a whole, whatever the batch size: no smaller split makes room for it.
_NOT_MAPPED = re.compile(r"\bmdb_status == 0 \(12 vs\. 0\)")


# Caffe's words for a snapshot that could not be written (io.cpp, hdf5.cpp, net.cpp,
# sgd_solver.cpp), and those before each of its files (solver.cpp, sgd_solver.cpp).
_NOT_WRITTEN = re.compile(
    "SerializeToOstream|Couldn't open .* to save |Error saving (?:weights|solver state) to "
    r"|Failed to (?:make|save) \w+ dataset"
)
_SNAPSHOTTING = re.compile(r"\] Snapshotting (?:solver state )?to (?:binary proto|HDF5) file (.+)")

_REASONS = (
    (_GPU_MEMORY, EndReason.GPU_MEMORY),
    (_NOT_MAPPED, EndReason.NOT_MAPPED),
    (_HOST_MEMORY, EndReason.HOST_MEMORY),
    (_NOT_WRITTEN, EndReason.SNAPSHOT_LOST),
)


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
    number = -status if status < 0 else status - 128 if 128 < status < 160 else 0
    cause = find_cause(log)
    if cause is None and not number:
        cause = python_error(log)
    if cause is not None:
        before, reason, detail = log[: cause.end], reason_of(cause), _with_signal(cause, number)
        if reason is EndReason.SNAPSHOT_LOST:
            file = next(filter(None, map(_SNAPSHOTTING.search, reversed(before))), None)
            detail = f"{file[1]}: {detail}" if file else detail
        return Ending(reason, detail, status, test_net=net_under_test(before))
    if number == signal.SIGKILL:
        return Ending(EndReason.KILLED, "killed by SIGKILL", status)
    if number:
        place = crash_place(log)
        inside = f" in {place}" if place else ""
        return Ending(EndReason.CRASHED, f"ended by {_signal_name(number)}{inside}", status)
    said = parting_words(log) if status == 1 else ""
    last = f"; the log ends with: {said}" if said else ""
    return Ending(EndReason.UNKNOWN, f"ended early with exit status {status}{last}", status)


def last_lines(log: Sequence[str], count: int = 8) -> list[str]:
    """The last informative lines up to the cause: without stack traces and empty lines."""
    cause = find_cause(log)
    end = cause.end + 1 if cause and cause.kind is not Kind.PYTHON else len(log)
    return [line for line in log[:end] if line.strip() and not is_stack_trace(line)][-count:]


def reason_of(cause: Cause) -> EndReason:
    """Which kind of ending a cause is."""
    for pattern, reason in _REASONS:
        if pattern.search(cause.sentence):
            return reason
    if cause.kind is Kind.CHECK:
        return EndReason.CHECK_FAILED
    return EndReason.PYTHON_ERROR if cause.kind is Kind.PYTHON else EndReason.CRASHED


def _with_signal(cause: Cause, number: int) -> str:
    """The cause, and the signal where nothing else says that the process was aborted."""
    if cause.kind is Kind.EXCEPTION and number:
        return f"{cause.sentence}, ended by {_signal_name(number)}"
    return cause.sentence


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
