"""How much memory a worker has, measured regularly."""

from __future__ import annotations

import time

from caffe_batch.device import Device
from caffe_batch.runtimes.machine import process_gpu_bytes, resident_bytes, resident_peak_bytes

#: Seconds between two measurements: NVML takes some milliseconds for each.
_INTERVAL_S = 2.0


class MemoryMeter:
    """Memory of a process: of the GPU it trains on, or its resident set on the CPU.

    Args:
        pid: The process.

    Attributes:
        peak_bytes: The most seen so far; on the CPU the kernel records it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._asked_at = float("-inf")
        self._bytes: int | None = None
        self.peak_bytes: int | None = None

    def read(self, device: Device) -> int | None:
        """Bytes on a device, at most two seconds old; None if unknown."""
        pid, gpu = self._pid, device.gpu
        now = time.monotonic()
        if now - self._asked_at >= _INTERVAL_S:
            self._asked_at = now
            used = resident_bytes(pid) if gpu is None else process_gpu_bytes(gpu, pid)
            self._bytes = used or None  # 0: it has ended, which hasn't been noticed yet
        most = resident_peak_bytes(pid) if gpu is None else self._bytes
        if most is not None:
            self.peak_bytes = max(most, self.peak_bytes or 0)
        return self._bytes
