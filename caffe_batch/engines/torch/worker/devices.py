"""Where a worker computes, and what its torch can do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from caffe_batch.engines.torch.gpu_errors import unusable
from caffe_batch.engines.torch.kernels import has_kernels, no_kernels
from caffe_batch.errors import CaffeBatchError
from caffe_batch.schema import caffe_pb2


class NoDeviceError(CaffeBatchError):
    """A GPU was asked for and can't be had."""


def choose_device(
    settings: Mapping[str, Any], solver: caffe_pb2.SolverParameter
) -> tuple[torch.device, str]:
    """Where to compute, and why if that isn't as expected.

    Args:
        settings: The worker's. Ranks take one GPU after the other.
        solver: Decides what the settings leave open.

    Raises:
        NoDeviceError: A GPU was asked for and can't be had.
    """
    wanted, gpu = settings["device"], settings["gpu"]
    beyond = (settings.get("rank") or {}).get("local_rank", 0)
    if wanted == "cpu":
        return torch.device("cpu"), ""
    if wanted == "auto" and solver.HasField("solver_mode") and solver.solver_mode == solver.CPU:
        return torch.device("cpu"), "Training on the CPU: solver.prototxt says solver_mode: CPU."
    gpu = solver.device_id if gpu is None else gpu
    problem = obstacle(gpu)
    if problem and wanted == "gpu":
        raise NoDeviceError(f"training on GPU {gpu} is not possible: {problem}")
    if problem:
        return torch.device("cpu"), f"Training on the CPU: {problem}."
    problem = obstacle(gpu + beyond) if beyond else ""
    if problem:
        raise NoDeviceError(f"training on GPU {gpu + beyond} is not possible: {problem}")
    return torch.device("cuda", gpu + beyond), ""


def obstacle(gpu: int) -> str:
    """Why torch can't compute on a GPU; empty if it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this PyTorch ({torch.__version__}) is built without GPU code; "
            "`pip install torch` installs one with it"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        said = "; ".join(str(each.message) for each in caught)
        return unusable(said) or "PyTorch sees no GPU; nvidia-smi shows whether the driver does"
    if gpu >= torch.cuda.device_count():
        return f"PyTorch sees {torch.cuda.device_count()} GPU(s), and counts them from 0"
    capability, kernels = torch.cuda.get_device_capability(gpu), torch.cuda.get_arch_list()
    if torch.version.hip is None and not has_kernels(capability, kernels):
        name = torch.cuda.get_device_name(gpu)
        return no_kernels(str(torch.__version__), f"GPU {gpu}, {name}", capability, kernels)
    return _first_use(gpu)


def _first_use(gpu: int) -> str:
    """Why computing on a GPU fails in a way that no other batch would change; empty if it works."""
    try:
        torch.zeros(1, device=torch.device("cuda", gpu)).add_(1).item()
    except RuntimeError as error:
        reason = unusable(str(error))
        if not reason:
            raise
        return reason
    return ""


def device_name(device: torch.device) -> str:
    """As events name it."""
    return "CPU" if device.type == "cpu" else f"GPU {device.index}"


def set_precision(precision: str, device: torch.device) -> str:
    """Let products be calculated in float32, or with TF32 where the GPU can.

    Returns:
        What to know if that has no effect, in a sentence; empty if it has.
    """
    faster = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = faster
    torch.backends.cudnn.allow_tf32 = faster
    if faster and device.type == "cpu":
        return "tf32 has no effect on the CPU: it calculates in float32, as Caffe does."
    return ""
