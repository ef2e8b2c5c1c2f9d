"""How much memory a worker uses, measured regularly."""

from __future__ import annotations

import time

from caffe_batch.device import Device
from caffe_batch.runtimes.machine import (
    child_processes,
    process_gpu_bytes,
    resident_bytes,
    resident_peak_bytes,
)

#: Seconds between two measurements: NVML takes some milliseconds for each.
_INTERVAL_S = 2.0


class MemoryMeter:
    """Memory of a process: of the GPU it trains on, or its resident set on the CPU.

    Args:
        pid: The process.
        ranks: How many processes train; if several, they are its children, one on each GPU.

    Attributes:
        peak_bytes: The most seen so far; on the CPU the kernel records it. Of several ranks it
            is the one that uses most, as a plan is for each.
        of_ranks: What each of several ranks uses, as far as that is known.
    """

    def __init__(self, pid: int, ranks: int = 1) -> None:
        self._pid, self._ranks = pid, ranks
        self.of_ranks: tuple[int, ...] = ()
        self._asked_at = float("-inf")
        self._bytes: int | None = None
        self.peak_bytes: int | None = None

    def read(self, device: Device) -> int | None:
        """Bytes on a device, at most two seconds old; None if unknown."""
        gpu, now = device.gpu, time.monotonic()
        if now - self._asked_at >= _INTERVAL_S:
            self._asked_at = now
            used = [
                resident_bytes(pid) if gpu is None else process_gpu_bytes(gpu + rank, pid)
                for rank, pid in enumerate(self._pids())
            ]
            self.of_ranks = tuple(filter(None, used)) if self._ranks > 1 else ()
            # 0: it has ended, but that hasn't been noticed yet
            self._bytes = max(filter(None, used), default=None)
        peaks = map(resident_peak_bytes, self._pids()) if gpu is None else (self._bytes,)
        most = max(filter(None, peaks), default=None)
        if most is not None:
            self.peak_bytes = max(most, self.peak_bytes or 0)
        return self._bytes

    def _pids(self) -> tuple[int, ...]:
        return child_processes(self._pid)[: self._ranks] if self._ranks > 1 else (self._pid,)
