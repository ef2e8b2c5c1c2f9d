"""The memory that a worker has taken: what was seen, to hold against what was predicted."""

from __future__ import annotations

import re
import time
from pathlib import Path

from caffe_batch.runtimes.machine import gpus, process_gpu_bytes

#: Asking NVML takes milliseconds, reading /proc microseconds.
_GPU_INTERVAL_S = 5.0


class MemoryWatch:
    """The most memory that a process was seen to have.

    On the CPU that is its resident memory, Python and Caffe's own code included; on a GPU what
    NVML says that it has there, its CUDA context included.

    Args:
        pid: The process.

    Attributes:
        peak_bytes: The most so far, or None where nobody tells.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._asked = 0.0
        self.peak_bytes: int | None = None

    def look(self, device: str | None) -> None:
        """Look again.

        Args:
            device: ``CPU`` or ``GPU 0``, as the worker says; None before it has said so.
        """
        if device == "CPU":
            seen = resident_peak_bytes(self._pid)
        elif device and time.monotonic() - self._asked > _GPU_INTERVAL_S:
            self._asked = time.monotonic()
            seen = process_gpu_bytes(int(device.removeprefix("GPU ")), self._pid)
        else:
            return
        if seen is not None:
            self.peak_bytes = max(seen, self.peak_bytes or 0)


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
