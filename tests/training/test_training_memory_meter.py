"""The memory of a worker, asked of the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from caffe_batch.device import Device
from caffe_batch.training.memory_meter import MemoryMeter
from tests.holding import wait_for


def test_a_process_that_has_just_ended_uses_nothing_to_show() -> None:
    """Not 0 B: the kernel says so of one that nobody has waited for yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    statm = Path(f"/proc/{process.pid}/statm")
    wait_for(lambda: statm.read_text().split()[1] == "0")
    assert MemoryMeter(process.pid).read(Device.CPU) is None
    process.wait()
    assert MemoryMeter(process.pid).read(Device.CPU) is None
