"""The memory that a run may use: of the GPU that it will be trained on, or of the host."""

from __future__ import annotations

from functools import partial

from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Mode
from caffe_batch.memory import MemoryModel
from caffe_batch.memory.ledger import Part
from caffe_batch.planning import Budget, parse_budget
from caffe_batch.planning.budget import HOST_RESERVE_BYTES
from caffe_batch.runtimes.machine import free_gpu_bytes, free_host_bytes
from caffe_batch.runtimes.reserve import default_reserve
from caffe_batch.sizes import size_text


class BudgetMissingError(InputError):
    """Nothing says how much memory a run may use."""


def find_budget(
    memory: str | int | None, reserve: str | int | None, mode: Mode, gpu: int
) -> Budget:
    """The memory that a run may use.

    Args:
        memory: A size, in bytes if it is a number; ``auto`` (all that is free); a share of it.
        reserve: The part of it that Caffe's own requests can't use; None for what is known about
            this GPU, or about a process in CPU mode (:func:`with_snapshots` adds its snapshots).
        mode: ``"gpu"`` for the GPU's memory, ``"cpu"`` for the host's.
        gpu: The GPU to train on, in CUDA's numbers.

    Raises:
        InputError: It isn't a size, the free memory is unknown, or the reserve leaves nothing.
    """
    if memory is None:
        raise BudgetMissingError(
            "how much memory may the run use?",
            hint=[
                "Give ", Option("gpu_memory", "8GiB"), ", or ", Option("gpu_memory", "auto"),
                " to ask the GPU.",
            ],
        )  # fmt: skip
    on_gpu = mode == "gpu"
    free = partial(free_gpu_bytes, gpu) if on_gpu else _free_host_bytes
    kept = default_reserve(gpu).bytes if on_gpu and reserve is None else HOST_RESERVE_BYTES
    return parse_budget(
        size_text(memory), None if reserve is None else size_text(reserve), free, kept
    )


def with_snapshots(budget: Budget, reserve: str | int | None, model: MemoryModel) -> Budget:
    """The budget, with room for a snapshot in the default reserve of CPU mode.

    Caffe copies all parameters into a message, then the solver's state into another, and frees
    both (solver.cpp, Snapshot; measured by benchmarks/cpu_reserve.py). In GPU mode these copies are
    in the host's memory, which no budget counts.

    Args:
        budget: The budget.
        reserve: The reserve that the user gave; it is kept.
        model: The memory model of the recipe.

    Raises:
        InputError: The reserve leaves nothing.
    """
    if model.mode == "gpu" or reserve is not None:
        return budget
    parts = model.at(model.batch_unit).parts  # the same at every batch
    copied = parts[Part.PARAMETERS] // 2 + parts[Part.SOLVER_STATE]  # data without gradients
    return budget.reserving(copied)


def _free_host_bytes() -> int:
    free = free_host_bytes()
    if free is None:
        raise InputError(
            "the free memory of this machine is unknown",
            hint=["Give the memory as a size instead: ", Option("gpu_memory", "8GiB"), "."],
        )
    return free
