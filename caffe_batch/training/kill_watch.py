"""What killed a worker: the kernel, for lack of memory, or something else."""

from __future__ import annotations

from collections import deque

from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.runtimes.kernel_kills import kill_counter
from caffe_batch.runtimes.machine import child_processes, free_host_bytes, resident_bytes

#: The kernel counts a kill at most this many looks before the process is gone.
_LOOKS = 50


class KillWatch:
    """Watches the kernel's count of processes killed for memory while a worker runs.

    SIGKILL looks the same no matter who sends it, and a smaller split changes the last bits of the
    weights, so evidence is needed: the count of the worker's control group has gone up. If only
    the count of the whole machine is available, the victim may have been any process; then the
    worker must also have held most of the memory that is free after its end, as the process that
    makes the kernel kill usually does.

    It can't detect that someone killed the worker within seconds after the kernel killed another
    process of the same control group, nor that the kernel killed a worker in a container, whose
    group and memory can't be seen from here.

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
        """Note the count and the worker's memory; to be called regularly while it runs."""
        counter = kill_counter(self._pid)
        if counter != self._counter and not counter.whole_machine:  # it was moved into a group
            self._counter = counter
            self._counts.clear()
        count = self._counter.read()
        if count is not None:
            self._counts.append(count)
        pids = (self._pid, *child_processes(self._pid))  # several ranks are its children
        held = sum(filter(None, map(resident_bytes, pids)))
        self._resident_bytes = held or self._resident_bytes

    def judge(self, ending: Ending) -> Ending:
        """The ending of the worker, with what is known about a SIGKILL."""
        if ending.reason is not EndReason.KILLED or not self._has_killed():
            return ending
        if self._counter.whole_machine and 2 * self._resident_bytes < (free_host_bytes() or 0):
            detail = (
                f"{ending.detail}; at about that time the kernel killed a process for memory, "
                "perhaps another one"
            )
            return Ending(EndReason.KILLED, detail, ending.status)
        return Ending(EndReason.HOST_MEMORY, "killed by the kernel for memory", ending.status)

    def _has_killed(self) -> bool:
        count = self._counter.read()
        return bool(self._counts) and count is not None and count > self._counts[0]
