"""What torch and CUDA say when a GPU can't be used, or fails; needs no torch.

Sources of the words: c10/cuda/CUDAFunctions.cpp (drivers and devices), torch/cuda/__init__.py,
cuda_runtime_api's cudaGetErrorString, c10/cuda/CUDAException.cpp, ATen's and cuDNN's own checks.
"""

from __future__ import annotations

import re

#: An allocation on a GPU that failed. cuDNN finds no engine where there is no room for any one's
#: workspace, and cuBLAS makes no handle where there is none for its own.
OUT_OF_MEMORY = re.compile(
    r"\bOutOfMemoryError: (?:CUDA|HIP)|\b(?:CUDA|HIP) out of memory"
    r"|\b(?:CUDA|HIP) (?:driver )?error: out of memory"
    r"|\bCU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"
    r"|(?:GET|FIND) was unable to find an engine to execute this computation"
    r"|Unable to find a valid cuDNN algorithm"
)

#: Why a GPU can't be used at all, and what to do, in words that follow "is not possible:".
_UNUSABLE = (
    (
        r"NVIDIA driver on your system is too old"
        r"|CUDA driver version is insufficient for CUDA runtime version",
        "the NVIDIA driver is too old for this PyTorch: update the driver, or install a torch that "
        "was built for an older CUDA (https://pytorch.org lists them)",
    ),
    (
        r"no kernel image is available for execution on the device|invalid device function",
        "this PyTorch has no kernels for the GPU; `caffe-batch doctor` says which it has, and what "
        "to install",
    ),
    (
        r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected",
        "PyTorch sees no GPU; nvidia-smi shows whether the driver does",
    ),
    (
        r"CUDA-capable device(?:s|\(s\)) (?:is/)?are busy or unavailable",
        "the GPU is busy or unavailable; nvidia-smi shows which process uses it, and whether it "
        "may be shared",
    ),
    (
        r"CUDA driver initialization failed|CUDA unknown error|system not yet initialized"
        r"|system has unsupported display driver",
        "CUDA can't be initialized; nvidia-smi shows whether the driver works (after an update of "
        "the driver the machine must be restarted)",
    ),
    (
        r"Torch not compiled with CUDA enabled",
        "this PyTorch is built without GPU code; `pip install torch` installs one with it",
    ),
    (
        r"invalid device ordinal",
        "PyTorch sees no GPU of that number; it counts from 0, and CUDA_VISIBLE_DEVICES decides "
        "which it sees",
    ),
)

_ASSERTION = re.compile(r"([\w.]+\.(?:cu|cuh|hip|h):\d+): .*Assertion `(.+)` failed")
_FAILURE = re.compile(
    r"(?:(?:CUDA|HIP) (?:driver )?error|cuDNN error|CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+).*"
)


def unusable(message: str) -> str:
    """Why a GPU can't be used, and what to do about it; empty if a message says nothing of that.

    >>> unusable("RuntimeError: No CUDA GPUs are available")
    'PyTorch sees no GPU; nvidia-smi shows whether the driver does'
    """
    return next((sentence for words, sentence in _UNUSABLE if re.search(words, message)), "")


def failed_assertion(line: str) -> str:
    """The check of a kernel that a line says has failed; empty if it says none.

    >>> failed_assertion("../Loss.cu:245: nll: block: [0,0,0] Assertion `t >= 0` failed.")
    'a check on the GPU failed: t >= 0 (Loss.cu:245)'
    """
    match = _ASSERTION.search(line)
    return f"a check on the GPU failed: {match[2]} ({match[1]})" if match else ""


def failure(line: str) -> str:
    """What CUDA or one of its libraries says has gone wrong; empty if a line says nothing of it."""
    match = _FAILURE.search(line)
    return match[0] if match else ""
