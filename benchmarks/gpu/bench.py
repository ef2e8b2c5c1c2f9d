"""What the parts share: where they measure, and what a part is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.layers.base import Mode
from caffe_batch.runtimes import Runtime


@dataclass(frozen=True)
class Bench:
    """Where to measure.

    Attributes:
        runtime: The GPU build of Caffe.
        cpu_runtime: The CPU build that the layers are compared with; None for the GPU build in CPU
            mode.
        gpu: Number of the GPU, as NVML counts them.
        quick: Measure fewer sizes.
        mode: Where the parts train; ``cpu`` is only for trying them out.
    """

    runtime: Runtime
    cpu_runtime: Runtime | None = None
    gpu: int = 0
    quick: bool = False
    mode: Mode = "gpu"

    def environment(self) -> dict[str, str]:
        """The environment of a process in the runtime, which sees only this GPU, as its first."""
        return {
            **self.runtime.environment(),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": str(self.gpu),
        }


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    Attributes:
        name: Name of the part and of its file.
        about: One sentence about it.
        minutes: Rough duration on a GPU that is a few years old: normally, and with --quick.
        lines: What would be measured, one line each; the argument is --quick.
        measure: Measures in an empty folder. The result has ``passed`` and goes into the JSON.
    """

    name: str
    about: str
    minutes: tuple[float, float]
    lines: Callable[[bool], list[str]]
    measure: Callable[[Bench, Path], dict[str, Any]]
