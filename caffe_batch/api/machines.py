"""What to run on: a Python with the engine, and a device of this machine."""

from __future__ import annotations

from pathlib import Path

from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.errors import InputError, Option
from caffe_batch.runtimes import Runtime

#: A Python with the engine: its path or name, a container image, one that was found; None to look.
RuntimeName = str | Path | Runtime | None


def find_runtime(runtime: RuntimeName, engine: str = engines.DEFAULT) -> Runtime:
    """The Python to run on.

    Args:
        runtime: Which one.
        engine: Name of the engine that it should run.

    Raises:
        InputError: There is no such engine.
        RuntimeMissingError: There is no such Python, or it can't import the engine.
    """
    if runtime is None or isinstance(runtime, (str, Path)):
        return runtimes.find(None if runtime is None else str(runtime), engines.find(engine))
    return runtime


def device_of(*, cpu: bool, gpu: int | None) -> Device | None:
    """Where to run; None leaves it to the engine.

    Raises:
        InputError: Both a GPU and the CPU are asked for.
    """
    if cpu and gpu is not None:
        raise InputError(
            [Option("cpu"), " and ", Option("gpu"), " exclude each other"], hint="Give one of them."
        )
    return Device.CPU if cpu else None if gpu is None else Device(gpu)
