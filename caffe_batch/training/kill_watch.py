"""Who has killed a worker: the kernel for memory, or somebody else."""

from __future__ import annotations

from collections import deque

from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.runtimes.kernel_kills import kill_counter
from caffe_batch.runtimes.machine import free_host_bytes, resident_bytes

#: The kernel counts a process that it kills before that is gone: up to so many looks before.
_LOOKS = 50


class KillWatch:
    """Looks at the kernel's count of what it has killed for memory while a worker runs.

    SIGKILL looks the same whoever sends it, and a smaller split changes the last bits of the
    weights, so it takes evidence: the count of the worker's control group has gone up. Where there
    is none but the count of the whole machine, that may have been any process. Then the worker
    must have had most of the memory that is free after its end, as whatever makes the kernel kill
    has.

    What it can't tell: that a person has killed the worker within seconds after the kernel killed
    another process of the same control group. And that the kernel has killed a worker in a
    container: its group and its memory are out of sight.

    Args:
        pid: The worker.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._counter = kill_counter(pid)
        self._counts: deque[int] = deque(maxlen=_LOOKS)
        self._resident_bytes = 0
        self.look()

    def look(self) -> None:
        """Take note of the count and of the worker's memory; while it runs, every now and then."""
        counter = kill_counter(self._pid)
        if counter != self._counter and not counter.whole_machine:  # it was put into a group
            self._counter = counter
            self._counts.clear()
        count = self._counter.read()
        if count is not None:
            self._counts.append(count)
        self._resident_bytes = resident_bytes(self._pid) or self._resident_bytes

    def judge(self, ending: Ending) -> Ending:
        """The ending of the worker, with what is known of a SIGKILL."""
        if ending.reason is not EndReason.KILLED or not self._has_killed():
            return ending
        if self._counter.whole_machine and 2 * self._resident_bytes < (free_host_bytes() or 0):
            detail = (
                f"{ending.detail}; at about that time the kernel has killed a process for memory, "
                "which was perhaps another one"
            )
            return Ending(EndReason.KILLED, detail, ending.status)
        return Ending(EndReason.HOST_MEMORY, "killed by the kernel for memory", ending.status)

    def _has_killed(self) -> bool:
        count = self._counter.read()
        return bool(self._counts) and count is not None and count > self._counts[0]
