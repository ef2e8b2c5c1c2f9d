"""The GPU as NVML sees it, memory held by another process, and workers that are looked at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.runtimes import Runtime

WORKER = Path(__file__).with_name("train_worker.py")

#: Takes memory until only so many bytes are free, says how many are, and holds it until its
#: standard input closes. Through the driver, which is there wherever a GPU is.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def check(status):
    if status:
        sys.exit("libcuda: error %d" % status)
device, context, block = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), int(sys.argv[1])))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
take = free.value - int(sys.argv[2])
check(cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(take)) if take > 0 else 0)
check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
print(free.value, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Seen:
    """What a worker did.

    Attributes:
        seconds: Of each turn; None where Caffe aborted.
        gpu_bytes: What the GPU's free memory went down by while it was there.
        log: What it said, if it aborted.
    """

    seconds: tuple[float, ...] | None
    gpu_bytes: int
    log: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether Caffe's check of an allocation has failed."""
        return "out of memory" in self.log or "ALLOC_FAILED" in self.log


def watch(
    runtime: Runtime,
    solver: Path | None,
    directory: Path,
    turns: Sequence[int],
    gpu: int | None,
    free: Callable[[], int],
) -> Seen:
    """Run updates of a job and look at the GPU's memory while they are done.

    Args:
        runtime: The Python with caffe.
        solver: What it trains; None for a process that has the context and the handles only.
        directory: Where paths in its net start; Caffe's log goes there.
        turns: Updates to time.
        gpu: Number of the GPU, otherwise idle; None for the CPU.
        free: How many bytes are free on the GPU.
    """
    settings = {
        "solver": None if solver is None else str(solver), "directory": str(directory),
        "turns": list(turns), "mode": "cpu" if gpu is None else "gpu", "gpu": gpu,
    }  # fmt: skip
    log = directory / "worker.log"
    before = free()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            runtime.command([str(WORKER), json.dumps(settings)]),
            env=runtime.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as worker,
    ):
        assert worker.stdout is not None
        line = worker.stdout.readline()
        used = before - free()
        worker.communicate()
    if not line:
        return Seen(None, used, log.read_text(errors="replace"))
    answer: dict[str, Any] = json.loads(line)
    return Seen(tuple(answer["seconds"]), used)


@contextmanager
def only_free(runtime: Runtime, gpu: int, free_bytes: int) -> Iterator[int]:
    """While it lasts, another process leaves so many bytes free; yields how many really are."""
    with subprocess.Popen(
        runtime.command(["-c", HOLDER, str(gpu), str(free_bytes)]),
        env=runtime.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        line = holder.stdout.readline()
        if not line:
            holder.communicate()
            raise RuntimeError("no memory could be held: see the line above")
        try:
            yield int(line)
        finally:
            holder.communicate()
