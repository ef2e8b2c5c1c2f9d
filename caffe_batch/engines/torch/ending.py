"""Why a worker of the PyTorch engine ended.

Its log has the form of Caffe's, so most of it is read as Caffe's is. What torch itself says when
memory is lacking, or a GPU fails, is known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from caffe_batch.engines import base
from caffe_batch.engines.caffe.causes import net_under_test, python_error
from caffe_batch.engines.caffe.ending import HINTS as CAFFES
from caffe_batch.engines.caffe.ending import classify as classify_caffes
from caffe_batch.engines.caffe.ending import reason_of
from caffe_batch.engines.caffe.fatal_lines import first_fatal
from caffe_batch.engines.caffe.log_lines import read_glog_line
from caffe_batch.engines.events import Diverged, Finished, Refused, Stopped, WorkerEvent
from caffe_batch.engines.torch.gpu_errors import (
    OUT_OF_MEMORY,
    failed_assertion,
    failure,
    unusable,
)
from caffe_batch.engines.torch.ranks.statuses import (
    HUNG_STATUS,
    LAUNCHER,
    LOST_STATUS,
    RANKS,
    TOLD_OF_A_RANK,
)
from caffe_batch.errors import Text
from caffe_batch.jobs.ending import Ending, EndReason

#: What to try next, by reason.
HINTS: Mapping[EndReason, Text] = {
    **base.HINTS,
    EndReason.NOT_MAPPED: CAFFES[EndReason.NOT_MAPPED],
    EndReason.CRASHED: "On a GPU, CUDA_LAUNCH_BLOCKING=1 in the environment makes PyTorch name the "
    "operation that failed. Run it again: it continues from the newest snapshot.",
}

# c10/core/impl/alloc_cpu.cpp, and what oneDNN's failed allocations become.
_HOST_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|could not create a memory object"
)
# The library lmdb, when there is no address space for its map.
_NOT_MAPPED = re.compile(r"is not a readable LMDB \((.*: Cannot allocate memory)\)")
_NOT_WRITTEN = "snapshot not written: "


def classify(status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
    """The reason of an ending (see :meth:`~caffe_batch.engines.base.Engine.classify`).

    Of several ranks it is that of the one that failed first, which is named.
    """
    first = _first_rank(log)
    if first is None or isinstance(last_word, (Diverged, Finished, Refused, Stopped)):
        return _classify(status, last_word, log)
    if status == HUNG_STATUS:
        return Ending(EndReason.STALLED, first, status)
    if status == LOST_STATUS:
        return Ending(EndReason.RANK_LOST, f"{first}: {_what_was_lost(log)}", status)
    ending = _classify(status, last_word, log)
    if ending.detail.startswith(TOLD_OF_A_RANK):
        return ending
    return replace(ending, detail=f"{first.split(' ended')[0]}: {ending.detail}")


def _first_rank(log: Sequence[str]) -> str | None:
    """What the launcher says of the rank that failed first; None if there are no ranks."""
    lines = filter(None, map(read_glog_line, reversed(log)))
    return next((line.message for line in lines if line.place.startswith(LAUNCHER)), None)


def _what_was_lost(log: Sequence[str]) -> str:
    """What the ranks that are left say of it."""
    lines = filter(None, map(read_glog_line, log))
    return next(
        (line.message for line in lines if line.place.startswith(RANKS)), "no rank says why"
    )


def _classify(status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
    if not isinstance(last_word, (Diverged, Finished, Refused, Stopped)):
        for find in (_out_of_memory, _fatal, _gpu_failure):
            found = find(log)
            if found:
                reason, detail, line = found
                if reason is EndReason.REFUSED:
                    return Ending(reason, detail, status, "device")
                return Ending(reason, detail, status, test_net=net_under_test(log[:line]))
    return classify_caffes(status, last_word, log)


#: A reason, a sentence about it, and the index of the line that says it.
_Found = tuple[EndReason, str, int]


def _out_of_memory(log: Sequence[str]) -> _Found | None:
    """What memory was lacking: as the fatal line says, if there is one, else as any line does."""
    first = first_fatal(log)
    kinds: tuple[tuple[EndReason, re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (EndReason.GPU_MEMORY, OUT_OF_MEMORY, lambda match: _sentence(match.string)),
        (EndReason.HOST_MEMORY, _HOST_MEMORY, lambda match: _sentence(match.string)),
        (EndReason.NOT_MAPPED, _NOT_MAPPED, lambda match: match[1]),
    )
    for reason, pattern, detail in kinds:
        for index in [first[0]] if first else range(len(log)):
            match = pattern.search(log[index])
            if match:
                return reason, detail(match), index
    return None


def _fatal(log: Sequence[str]) -> _Found | None:
    """What the worker's own code, or a Python layer, has said before it gave up."""
    first = first_fatal(log)
    if first is None:
        return None
    index, line = first
    if line.message.startswith(_NOT_WRITTEN):
        what = line.message.removeprefix(_NOT_WRITTEN).removesuffix(".")
        return EndReason.SNAPSHOT_LOST, what, index
    what = line.message.rstrip(". ")
    if not line.place.startswith("python_layer"):
        return EndReason.CHECK_FAILED, what, index
    raised = python_error(log[:index])
    place = f" ({raised.place})" if raised and raised.place else ""
    reason = reason_of(raised) if raised else EndReason.PYTHON_ERROR
    return reason, f"{what}{place}", index


def _gpu_failure(log: Sequence[str]) -> _Found | None:
    """The first check that failed on the GPU, else why it can't be used, else what failed."""
    judges = (
        (EndReason.CHECK_FAILED, failed_assertion),
        (EndReason.REFUSED, unusable),
        (EndReason.CRASHED, failure),
    )
    candidates = chain.from_iterable(
        ((reason, judge(line), index) for index, line in enumerate(log)) for reason, judge in judges
    )
    return next((found for found in candidates if found[1]), None)


def _sentence(line: str) -> str:
    """The first sentences of what an exception says, with what was asked for."""
    message = re.sub(r"^\[enforce fail at .*?\] .*? == 0\. ", "", line.split("Error: ", 1)[-1])
    return ". ".join(message.split(". ")[:2]).rstrip(". ")
