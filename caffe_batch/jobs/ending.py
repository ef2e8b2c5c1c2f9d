"""How a worker of a job has ended: the reason, and a sentence about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EndReason(str, Enum):
    """Why a worker ended; the value is its spelling in job.json."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    NOT_MAPPED = "no address space for a database"
    NOT_STARTED = "not started"
    KILLED = "killed"
    DIVERGED = "diverged"
    STALLED = "no progress"
    RANK_LOST = "a rank is lost"
    SNAPSHOT_LOST = "snapshot not written"
    RECORD_LOST = "record not written"
    CHECK_FAILED = "failed check"
    CRASHED = "crashed"
    PYTHON_ERROR = "Python error"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        reason: Why.
        detail: One sentence for people, with the engine's own message where there is one.
        status: Exit status; a negative one is minus the number of the signal that killed it.
        refused: What was asked for and can't be had, ``"device"``, ``"weights"`` or ``"net"``;
            empty where nothing was refused.
        test_net: The test net in whose pass, or whose building, it ended; None elsewhere.
    """

    reason: EndReason
    detail: str
    status: int
    refused: str = ""
    test_net: int | None = None
