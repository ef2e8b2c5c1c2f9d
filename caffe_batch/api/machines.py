"""What to run on: a Python with caffe, and a device of this machine."""

from __future__ import annotations

from pathlib import Path

from caffe_batch import runtimes
from caffe_batch.errors import InputError, Option
from caffe_batch.runtimes import Runtime
from caffe_batch.training import Device

#: A Python with caffe: its path or name, a container image, one that was found; None to look.
RuntimeName = str | Path | Runtime | None


def find_runtime(runtime: RuntimeName) -> Runtime:
    """The Python with caffe to run on.

    Raises:
        RuntimeMissingError: There is none, or it can't import caffe.
    """
    if runtime is None or isinstance(runtime, (str, Path)):
        return runtimes.find(None if runtime is None else str(runtime))
    return runtime


def device_of(*, cpu: bool, gpu: int | None) -> Device:
    """Where to run.

    Raises:
        InputError: Both a GPU and the CPU are asked for.
    """
    if cpu and gpu is not None:
        raise InputError(
            [Option("cpu"), " and ", Option("gpu"), " exclude each other"], hint="Give one of them."
        )
    return Device.CPU if cpu else Device.AUTO if gpu is None else Device.GPU
