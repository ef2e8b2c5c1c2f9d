"""How much memory a worker has, and how much there is: to hold against what was predicted."""

from __future__ import annotations

import re
import time
from pathlib import Path

from caffe_batch.runtimes.machine import gpus, process_gpu_bytes, resident_bytes

#: Seconds between two questions: NVML takes some milliseconds for an answer.
_INTERVAL_S = 2.0


class MemoryMeter:
    """Memory of a process: of the GPU it trains on, its CUDA context included, or on the CPU its
    resident set, Python and Caffe's own code included.

    Args:
        pid: The process.

    Attributes:
        peak_bytes: The most that was seen so far, or None where nobody tells.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._asked_at = float("-inf")
        self._bytes: int | None = None
        self.peak_bytes: int | None = None

    def read(self, device: str) -> int | None:
        """Bytes on a device (``CPU`` or ``GPU 0``), at most two seconds old; None if unknown."""
        kind, _, number = device.partition(" ")
        now = time.monotonic()
        if now - self._asked_at >= _INTERVAL_S:
            self._asked_at = now
            on_gpu, pid = kind == "GPU", self._pid
            self._bytes = process_gpu_bytes(int(number), pid) if on_gpu else resident_bytes(pid)
        peak = resident_peak_bytes(self._pid) if kind == "CPU" else self._bytes
        if peak is not None:
            self.peak_bytes = max(peak, self.peak_bytes or 0)
        return self._bytes


def resident_peak_bytes(pid: int) -> int | None:
    """The most resident memory that a process had so far; None if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def free_gpu_bytes(number: int) -> int | None:
    """What is free on a GPU, where that can be told."""
    devices = gpus().devices
    return devices[number].free_bytes if number < len(devices) else None


def oom_kills() -> int | None:
    """How often the kernel has killed a process for memory since it started, or None."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None
