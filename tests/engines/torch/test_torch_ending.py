"""Why a worker of the PyTorch engine ended, in a sentence."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from caffe_batch import engines
from caffe_batch.engines.events import Built, Finished, Refused
from caffe_batch.engines.torch.kernels import no_kernels
from caffe_batch.jobs.ending import EndReason

ENGINE = engines.find("pytorch")

#: torch's own words (2.13), after a traceback.
TRACEBACK = ["Traceback (most recent call last):", '  File "/x/net.py", line 1, in forward']


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a "
            "total capacity of 79.11 GiB of which 5.88 MiB is free.",
            EndReason.GPU_MEMORY,
            "CUDA out of memory. Tried to allocate 20.00 MiB",
        ),
        (
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            EndReason.GPU_MEMORY,
            "CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`",
            EndReason.GPU_MEMORY,
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`",
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: "
            "can't allocate memory: you tried to allocate 400000000 bytes. Error code 12",
            EndReason.HOST_MEMORY,
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 400000000 bytes",
        ),
        (
            "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
            EndReason.CRASHED,
            "CUDA error: an illegal memory access was encountered",
        ),
        (
            "F1127 21:00:00.000001   77 worker.py:1] layer 'data': record '7' is short.",
            EndReason.CHECK_FAILED,
            "layer 'data': record '7' is short",
        ),
        (
            "F1127 21:00:00.000001   77 python_layer.hpp:1] forward of Python layer a.B has raised "
            "KeyError: 'x'",
            EndReason.PYTHON_ERROR,
            "forward of Python layer a.B has raised KeyError: 'x'",
        ),
        (
            "F1127 21:00:00.000001   77 worker.py:1] snapshot not written: /job/a.caffemodel: No "
            "space left on device.",
            EndReason.SNAPSHOT_LOST,
            "/job/a.caffemodel: No space left on device",
        ),
    ],
)
def test_the_first_cause_is_told(line: str, reason: EndReason, detail: str) -> None:
    ending = ENGINE.classify(1, Built(0), [*TRACEBACK, line, "what follows"])
    assert (ending.reason, ending.detail) == (reason, detail)


def test_what_the_worker_has_said_itself_counts_more_than_its_log() -> None:
    log = ["RuntimeError: CUDA out of memory"]
    assert ENGINE.classify(0, Finished(3), log).reason is EndReason.FINISHED
    refused = ENGINE.classify(1, Refused("no such GPU", "device"), log)
    assert (refused.reason, refused.refused) == (EndReason.REFUSED, "device")
    assert ENGINE.classify(-signal.SIGKILL, Built(0), []).reason is EndReason.KILLED


@pytest.mark.parametrize(
    ("capability", "remedy"),
    [((6, 1), "pip install 'torch<2.5'"), ((13, 0), "pip install --upgrade torch")],
)
def test_a_gpu_without_kernels_gets_a_remedy(capability: tuple[int, int], remedy: str) -> None:
    facts: dict[str, Any] = {
        "python_version": "3.11.7", "import_s": 1.5, "torch_version": "2.13.0",
        "torch_path": "x", "numpy_version": "2", "built_for_gpus": True, "nccl": True,
        "kernels": ["sm_75", "sm_80"], "gpus": [["A GPU", list(capability)]],
    }  # fmt: skip
    info = ENGINE.runtime_info(facts)
    assert info is not None
    major, minor = capability
    assert info.devices == (f"GPU 0: A GPU, compute capability {major}.{minor}",)
    assert info.gpu_problem == no_kernels("2.13.0", "GPU 0", capability, facts["kernels"])
    assert remedy in info.gpu_problem
    able = ENGINE.runtime_info({**facts, "gpus": [["A GPU", [8, 6]]]})
    assert able is not None
    assert able.gpu_problem is None
