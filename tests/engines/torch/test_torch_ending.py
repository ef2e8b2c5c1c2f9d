"""Why a worker of the PyTorch engine ended, in a sentence."""

from __future__ import annotations

import signal
import warnings
from typing import Any

import pytest
import torch

from caffe_batch import engines
from caffe_batch.engines.base import RuntimeInfo
from caffe_batch.engines.events import Built, Finished, Refused
from caffe_batch.engines.torch.kernels import no_kernels
from caffe_batch.engines.torch.worker.devices import obstacle
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
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 400000000 bytes. "
            "Error code 12",
        ),
        *(
            (line, EndReason.GPU_MEMORY, line.removeprefix("RuntimeError: "))
            for line in (
                "RuntimeError: CUDA error: out of memory",
                "RuntimeError: CUDA driver error: out of memory",
                "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling "
                "`cublasCreate(handle)`",
                "RuntimeError: GET was unable to find an engine to execute this computation",
                "RuntimeError: FIND was unable to find an engine to execute this computation",
                "RuntimeError: Unable to find a valid cuDNN algorithm to run convolution",
            )
        ),
        (
            "RuntimeError: HIP out of memory. Tried to allocate 1.00 GiB",
            EndReason.GPU_MEMORY,
            "HIP out of memory. Tried to allocate 1.00 GiB",
        ),
        (
            "F1127 21:00:00.000001   77 worker.py:1] layer 'data': the size of 'data' isn't known: "
            "/x/data is not a readable LMDB (/x/data: Cannot allocate memory). Or give the size.",
            EndReason.NOT_MAPPED,
            "/x/data: Cannot allocate memory",
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


def test_a_fatal_line_wins_over_words_about_memory() -> None:
    """Which a Python layer may have printed; no smaller split would help."""
    log = [
        "retrying after CUDA out of memory",
        "F1127 21:00:00.000001   77 worker.py:1] list.txt: no such image.",
    ]
    ending = ENGINE.classify(1, Built(0), log)
    assert (ending.reason, ending.detail) == (EndReason.CHECK_FAILED, "list.txt: no such image")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ("MemoryError", EndReason.HOST_MEMORY),
        (
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array "
            "with shape (1000000000,) and data type float64",
            EndReason.HOST_MEMORY,
        ),
        ("ValueError: no", EndReason.PYTHON_ERROR),
    ],
)
def test_what_a_python_layer_raises(raised: str, reason: EndReason) -> None:
    """A lack of memory in one leads to a smaller split, as with Caffe."""
    fatal = f"F1127 21:00:00.000001   77 python_layer.py:1] {raised}"
    assert ENGINE.classify(1, Built(0), [*TRACEBACK, raised, fatal]).reason is reason


#: What a kernel says of each thread whose label is none, and what follows from it.
ASSERTED = [
    f"../aten/src/ATen/native/cuda/Loss.cu:245: nll_loss_forward_reduce_cuda_kernel_2d: block: "
    f"[0,0,0], thread: [{thread},0,0] Assertion `t >= 0 && t < n_classes` failed."
    for thread in range(2)
]


def test_a_check_on_the_gpu_is_the_first_cause() -> None:
    log = [*ASSERTED, *TRACEBACK, "RuntimeError: CUDA error: device-side assert triggered"]
    ending = ENGINE.classify(1, Built(0), log)
    assert ending.reason is EndReason.CHECK_FAILED  # so the labels are looked at
    assert ending.detail == "a check on the GPU failed: t >= 0 && t < n_classes (Loss.cu:245)"
    alone = ENGINE.classify(1, Built(0), log[2:])
    assert alone.reason is EndReason.CRASHED
    assert alone.detail == "CUDA error: device-side assert triggered"


#: What torch says when a GPU can't be used, and what is told.
UNUSABLE = [
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please "
        "update your GPU driver by downloading and installing a new version from the URL: "
        "http://www.nvidia.com/Download/index.aspx",
        "the NVIDIA driver is too old for this PyTorch: update the driver, or install",
    ),
    (
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
        "the NVIDIA driver is too old",
    ),
    (
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
        "device",
        "this PyTorch has no kernels for the GPU; `caffe-batch doctor` says which it has, and what",
    ),
    ("RuntimeError: No CUDA GPUs are available", "PyTorch sees no GPU; nvidia-smi shows"),
    (
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA "
        "GPU and installed a driver from http://www.nvidia.com/Download/index.aspx",
        "PyTorch sees no GPU; nvidia-smi shows",
    ),
    (
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "the GPU is busy or unavailable; nvidia-smi shows which process uses it",
    ),
    (
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
        "the GPU is busy",
    ),
    (
        "UserWarning: CUDA initialization: CUDA unknown error - this may be due to an incorrectly "
        "set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start.",
        "CUDA can't be initialized; nvidia-smi shows whether the driver works",
    ),
    (
        "AssertionError: Torch not compiled with CUDA enabled",
        "built without GPU code; `pip install",
    ),
    ("RuntimeError: CUDA error: invalid device ordinal", "sees no GPU of that number"),
]


@pytest.mark.parametrize(("line", "told"), UNUSABLE)
def test_a_gpu_that_cannot_be_used_is_refused(line: str, told: str) -> None:
    ending = ENGINE.classify(1, None, [*TRACEBACK, line])
    assert (ending.reason, ending.refused) == (EndReason.REFUSED, "device")
    assert told in ending.detail


def test_memory_that_a_test_lacks() -> None:
    """Its batches become smaller before those of the training do."""
    begun = "I1127 21:00:00.000001   77 solver.py:1] Iteration 20, Testing net (#1)"
    lacking = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."
    assert ENGINE.classify(1, Built(0), [begun, *TRACEBACK, lacking]).test_net == 1
    ended = (
        "I1127 21:00:00.000002   77 solver.py:1]     Test net output #0: loss = 1 (* 1 = 1 loss)"
    )
    assert ENGINE.classify(1, Built(0), [begun, ended, *TRACEBACK, lacking]).test_net is None


class Cuda:
    """Stands in for the parts of torch.cuda that tell of devices."""

    def __init__(self, *, warns: str = "", count: int = 1) -> None:
        self._warns, self._count = warns, count

    def is_available(self) -> bool:
        if self._warns:
            warnings.warn(f"CUDA initialization: {self._warns}", stacklevel=2)
        return not self._warns and self._count > 0

    def device_count(self) -> int:
        return self._count

    def get_device_capability(self, gpu: int) -> tuple[int, int]:
        return 9, 0

    def get_arch_list(self) -> list[str]:
        return ["sm_80", "sm_90"]


@pytest.mark.parametrize(
    ("cuda", "fails", "told"),
    [
        (Cuda(warns=UNUSABLE[0][0]), "", "the NVIDIA driver is too old"),
        (Cuda(count=0), "", "PyTorch sees no GPU; nvidia-smi"),
        (Cuda(), "", "PyTorch sees 1 GPU(s), and counts them from 0"),
        (Cuda(count=2), UNUSABLE[5][0], "the GPU is busy or unavailable"),
    ],
)
def test_a_gpu_is_tried_before_it_is_used(
    cuda: Cuda, fails: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(*args: object, **keywords: object) -> None:
        raise RuntimeError(fails)

    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch, "zeros", zeros)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told, and not shown
        assert told in obstacle(1)


def test_a_full_gpu_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on the CPU instead would be another thing than what was asked for."""

    def zeros(*args: object, **keywords: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch, "cuda", Cuda())
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(torch.OutOfMemoryError):
        obstacle(0)


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
        "kernels": ["sm_75", "sm_80"], "gpus": [["A GPU", list(capability)]], "gpu_warnings": "",
    }  # fmt: skip
    info = ENGINE.runtime_info(facts)
    assert isinstance(info, RuntimeInfo)
    major, minor = capability
    assert info.devices == (f"GPU 0: A GPU, compute capability {major}.{minor}",)
    assert info.gpu_problem == no_kernels("2.13.0", "GPU 0", capability, facts["kernels"])
    assert remedy in info.gpu_problem
    able = ENGINE.runtime_info({**facts, "gpus": [["A GPU", [8, 6]]]})
    assert isinstance(able, RuntimeInfo)
    assert able.gpu_problem is None
    blind = ENGINE.runtime_info({**facts, "gpus": [], "gpu_warnings": UNUSABLE[0][0]})
    assert isinstance(blind, RuntimeInfo)
    assert str(blind.gpu_problem).startswith("the NVIDIA driver is too old for this PyTorch")
    old = ENGINE.runtime_info({**facts, "torch_version": "2.3.1+cu121"})
    assert old == "has torch 2.3.1+cu121, and 2.4 or newer is needed"
