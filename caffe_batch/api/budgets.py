"""The memory that a run may use: of the GPU it will be trained on, or of the host."""

from __future__ import annotations

from functools import partial

from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Mode
from caffe_batch.planning import Budget, parse_budget
from caffe_batch.runtimes.machine import free_gpu_bytes, free_host_bytes
from caffe_batch.runtimes.reserve import default_reserve
from caffe_batch.sizes import size_text


def find_budget(
    memory: str | int | None, reserve: str | int | None, mode: Mode, gpu: int
) -> Budget:
    """The memory that a run may use.

    Args:
        memory: A size, in bytes if it is a number; ``auto`` (all that is free); a share of it.
        reserve: The part of it that Caffe's own requests can't use; None for what is known about
            this GPU.
        mode: ``"gpu"`` for the GPU's memory, ``"cpu"`` for the host's.
        gpu: The GPU to train on, in CUDA's numbers.

    Raises:
        InputError: This is no size, the free memory is unknown, or the reserve leaves nothing.
    """
    if memory is None:
        raise InputError(
            "how much memory may the run use?",
            hint=[
                "Give ", Option("gpu_memory", "8GiB"), ", or ", Option("gpu_memory", "auto"),
                " to ask the GPU.",
            ],
        )  # fmt: skip
    on_gpu = mode == "gpu"
    free = partial(free_gpu_bytes, gpu) if on_gpu else _free_host_bytes
    kept = default_reserve(gpu).bytes if on_gpu and reserve is None else 0
    return parse_budget(
        size_text(memory), None if reserve is None else size_text(reserve), free, kept
    )


def _free_host_bytes() -> int:
    free = free_host_bytes()
    if free is None:
        raise InputError(
            "the free memory of this machine is unknown",
            hint=["Give the memory as a size instead: ", Option("gpu_memory", "8GiB"), "."],
        )
    return free
