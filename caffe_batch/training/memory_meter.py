"""How much memory a worker has, asked now and then."""

from __future__ import annotations

import time

from caffe_batch.runtimes.machine import process_gpu_bytes, resident_bytes

#: Seconds between two questions: NVML takes some milliseconds for an answer.
_INTERVAL_S = 2.0


class MemoryMeter:
    """Memory of a process: of the GPU it trains on, or its resident set on the CPU.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._asked_at = float("-inf")
        self._bytes: int | None = None

    def read(self, device: str) -> int | None:
        """Bytes on a device (``CPU`` or ``GPU 0``), at most two seconds old; None if unknown."""
        now = time.monotonic()
        if now - self._asked_at >= _INTERVAL_S:
            self._asked_at = now
            kind, _, number = device.partition(" ")
            on_gpu = kind == "GPU"
            pid = self._pid
            self._bytes = process_gpu_bytes(int(number), pid) if on_gpu else resident_bytes(pid)
        return self._bytes
