"""A stand-in for the module pynvml, for machines with the GPUs that a test wants."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

GIB = 1024**3


@dataclass(frozen=True)
class FakeGpu:
    """A GPU as NVML reports it.

    Attributes:
        name: Its model.
        free_bytes: Its free memory, or None if NVML doesn't report it.
        uuid: Its UUID.
        processes: Memory of each process, by its id.
    """

    name: str
    free_bytes: int | None
    uuid: str
    processes: tuple[tuple[int, int], ...] = ()


class FakeNvml(ModuleType):
    """The part of pynvml that is used."""

    class NVMLError(Exception):
        """As in pynvml."""

    def __init__(self, gpus: Sequence[FakeGpu]) -> None:
        super().__init__("pynvml")
        self._gpus = gpus

    def nvmlInit(self) -> None:  # noqa: N802
        """Nothing to do."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Nothing to do."""

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "550.54"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if not 0 <= index < len(self._gpus):
            raise self.NVMLError("Invalid Argument")
        return self._gpus[index]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:  # noqa: N802
        if gpu.free_bytes is None:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=2 * gpu.free_bytes, free=gpu.free_bytes)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]


#: Two models, the larger one second; the third is of the first model.
SMALL = FakeGpu("Model A", 2 * GIB, "GPU-1a2b3c4d-0000", ((os.getpid(), 11),))
LARGE = FakeGpu("Model B", 7 * GIB, "GPU-1a5e6f70-0000", ((os.getpid(), 22),))
OTHER = FakeGpu("Model A", 3 * GIB, "GPU-77777777-0000", ((os.getpid(), 33),))


def install(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu) -> None:
    """Make a machine with these GPUs, none of them hidden from CUDA."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus))
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
