"""Which machine was measured, and what it is missing for that."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import caffe_batch
from benchmarks.gpu.bench import Bench
from caffe_batch.runtimes import Runtime, inspect, machine

#: Prints the CUDA libraries that Caffe has loaded.
LIBRARIES = """
import re
import caffe
with open("/proc/self/maps") as maps:
    for name in sorted(set(re.findall(r"/(lib(?:cu|nccl)[a-zA-Z]*\\.so[.0-9]*)", maps.read()))):
        print(name)
"""


def missing(runtime: Runtime, gpu: int) -> Iterator[str]:
    """What is missing for measuring on a GPU, one sentence each."""
    if importlib.util.find_spec("pynvml") is None:
        yield "no NVML binding: pip install nvidia-ml-py (the image has it)"
        return
    gpus = machine.gpus()
    if not gpus.devices:
        why = f" ({gpus.problem})" if gpus.problem else ""
        yield f"no NVIDIA driver, or no GPU to see{why}; in a container: --gpus all"
    elif gpu >= len(gpus.devices):
        yield f"no GPU {gpu}: this machine has {len(gpus.devices)}"
    info = inspect(runtime)
    if not info.gpu:
        yield (
            f"no GPU code in the Caffe of {runtime.name}: --runtime names the Python of a GPU"
            " build (the image's is /opt/caffe-batch/bin/python)"
        )
    elif info.gpu_problem and gpus.devices:
        yield f"Caffe can't use the GPU: {info.gpu_problem}"


def facts(bench: Bench) -> dict[str, Any]:
    """The machine and the programs, for the results."""
    import pynvml

    gpus = machine.gpus()
    gpu = gpus.devices[bench.gpu]
    pynvml.nvmlInit()
    cuda = pynvml.nvmlSystemGetCudaDriverVersion()
    pynvml.nvmlShutdown()
    info = inspect(bench.runtime)
    return {
        "gpu": gpu.name,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes,
        "driver": gpus.driver,
        "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "module_loading": os.environ.get("CUDA_MODULE_LOADING", "the driver's default"),
        "libraries": libraries(bench.runtime),
        "caffe": info.engine_version,
        "python": info.python_version,
        "numpy": info.numpy_version,
        "caffe_batch": caffe_batch.__version__,
    }


def libraries(runtime: Runtime) -> list[str]:
    """The file names of the CUDA libraries that Caffe loads, which contain their versions."""
    done = subprocess.run(
        runtime.command(["-c", LIBRARIES]),
        env=runtime.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def slug(name: str) -> str:
    """The name of a GPU, made into the name of a folder.

    >>> slug("NVIDIA GeForce RTX 3060 Ti")
    'nvidia-geforce-rtx-3060-ti'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
