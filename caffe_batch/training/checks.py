"""What training counts on in a solver, checked before anything is written or started."""

from __future__ import annotations

import math
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.prototxt import read_net
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.learning_rate import learning_rate


def check_solver(solver: caffe_pb2.SolverParameter, path: Path | None) -> None:
    """Refuses a solver that Caffe can't train with, or would train nothing with.

    Args:
        solver: The solver, in current syntax.
        path: Its file, for messages; None for a solver from the template.

    Raises:
        InputError: No update to do, an unknown policy, or a first learning rate that is no number.
    """
    where = f"{path}: " if path is not None else ""
    if solver.max_iter < 1:
        raise InputError(
            f"{where}max_iter is {solver.max_iter}, so there is no update to do",
            hint="Set max_iter to the updates that the recipe trains for.",
        )
    try:
        rate = learning_rate(solver, 0)
    except InputError as error:
        raise InputError(f"{where}{error.message}", hint=error.hint) from error
    if not math.isfinite(rate):
        raise InputError(
            f"{where}the learning rate of the first update is {rate}",
            hint="Correct base_lr, gamma and power.",
        )


def check_accumulates(iter_size: int) -> None:
    """Refuses to measure the noise scale on the way where an update is one micro-batch.

    Raises:
        InputError: iter_size is 1.
    """
    if iter_size < 2:
        raise InputError(
            f"--noise-scale compares the micro-batches of an update, and iter_size is {iter_size}",
            hint="`caffe-batch noise NET` measures it without accumulation.",
        )


def missing_files(net: Path, directory: Path) -> list[str]:
    """The files and databases that a net names and that aren't there, with the layer.

    Args:
        net: The net's file.
        directory: Where relative paths start.
    """
    return [
        f"{file} (layer {layer!r})"
        for layer, file in dict.fromkeys(named_files(net))
        if not (directory / file).exists()
    ]


def named_files(net: Path) -> list[tuple[str, str]]:
    """The files and databases that the layers of a net name, with the layers' names."""
    return [
        (layer.name, file)
        for layer in read_net(net, allow_unknown_fields=True).layer
        for file in (
            layer.data_param.source,
            layer.image_data_param.source,
            layer.hdf5_data_param.source,
            layer.window_data_param.source,
            layer.transform_param.mean_file,
        )
        if file
    ]


def check_one_gpu(gpus: int, path: Path) -> None:
    """Refuses a plan for several GPUs.

    Args:
        gpus: The plan's.
        path: Where the plan is, or is to be.

    Raises:
        InputError: They are several.
    """
    if gpus > 1:
        raise InputError(
            f"{path}: the plan is for {gpus} GPUs, and train uses one",
            hint="Plan with --gpus 1: the effective batch stays, iter_size grows.",
        )
