"""What training requires of a job, checked before anything is written or started."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.errors import Call, InputError, Option
from caffe_batch.net.recipe import Recipe
from caffe_batch.prototxt import read_net


def check_accumulates(iter_size: int) -> None:
    """Refuses to measure the noise scale during a training whose updates are one micro-batch.

    Raises:
        InputError: iter_size is 1.
    """
    if iter_size < 2:
        raise InputError(
            [
                Option("noise_scale"),
                f" compares the micro-batches of an update, but iter_size is {iter_size}",
            ],
            hint=[
                Call("`caffe-batch noise NET`", "caffe_batch.noise(NET)"),
                " measures it without accumulation.",
            ],
        )


def missing_files(net: Path, directory: Path) -> list[str]:
    """The files and databases that a net names and that don't exist, with the layer.

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


def check_is_fed(recipe: Recipe) -> None:
    """Refuses nets that wait for a program to give them their data: `train` is none.

    Real Caffe trains on the zeros of an Input layer without a word, and aborts at a MemoryData one.

    Raises:
        InputError: A layer of the train net, or of a test net, does.
    """
    for file in (recipe.train, *recipe.tests):
        for _, layer, rule in file.known():
            if rule.fed_by_program:
                raise InputError(
                    f"layer {layer.name!r} of type {layer.type} in the {file.phase} net waits for "
                    "a program to give it data, and nothing does here",
                    hint="Train the net that reads the data itself (Data, ImageData, HDF5Data, "
                    "...); this one can be planned and measured, not trained.",
                )


def check_one_gpu(gpus: int) -> None:
    """Refuses a plan for several GPUs.

    Raises:
        InputError: There are several.
    """
    if gpus > 1:
        raise InputError(
            f"the plan is for {gpus} GPUs, but train uses one",
            hint=[
                "Plan with ", Option("gpus", 1), ": the effective batch stays the same, iter_size "
                "grows.",
            ],
        )  # fmt: skip
