"""What to run on: a Python with the engine, and a device of this machine."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.errors import InputError, Option, RuntimeMissingError
from caffe_batch.experiments.memory_counts import MemoryCounts, memory_counts
from caffe_batch.net.data.findings import Progress, no_progress
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.checks import check_gpu

#: What is in progress while memory is counted.
MEMORY = "memory"

#: A Python with the engine: its path or name, a container image, or one that was found; None to
#: look for one.
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


@dataclass(frozen=True)
class Trainer:
    """What trains.

    Attributes:
        engine: Name of the engine.
        runtime: The Python that it runs in.
        notes: Why it isn't the default one, if it isn't.
    """

    engine: str
    runtime: Runtime
    notes: tuple[str, ...] = ()


def counting(engine: str, progress: Progress = no_progress) -> MemoryCounts | None:
    """What counts the memory of an engine; None if nothing needs to be counted, or nothing can.

    Args:
        engine: Name of the engine.
        progress: Called with :data:`MEMORY`, the counts that are done, and how many there are.
    """
    here = Interpreter(sys.executable)
    return memory_counts(engines.find(engine), here, partial(progress, MEMORY))


def find_trainer(runtime: RuntimeName, engine: str | None, usual: str) -> Trainer:
    """The engine and the Python to train with.

    If the default engine isn't available, and neither it nor a Python was asked for, another
    available engine takes its place.

    Args:
        runtime: Which Python; None to look for one.
        engine: Which engine; None for the default one.
        usual: The name of the default one.

    Raises:
        InputError: There is no such engine.
        RuntimeMissingError: No Python can import it.
    """
    name = engine or usual
    try:
        return Trainer(name, find_runtime(runtime, name))
    except RuntimeMissingError as error:
        if engine is not None or runtime is not None or runtimes.VARIABLE in os.environ:
            raise
        for other in engines.NAMES:
            with suppress(RuntimeMissingError):
                title = engines.find(other).title
                note = f"{error.message[0].upper()}{error.message[1:]}. {title} trains instead."
                if other != name:
                    return Trainer(other, find_runtime(None, other), (note,))
        raise


def check_device(
    runtime: Runtime, engine: str = engines.DEFAULT, *, cpu: bool = False, gpu: int | None = None
) -> None:
    """Refuse a GPU that a runtime has no code for.

    Args:
        runtime: The Python to run on.
        engine: Name of the engine that it should run.
        cpu: Whether the CPU is asked for.
        gpu: The GPU asked for, in CUDA's numbers.

    Raises:
        InputError: It has none.
    """
    check_gpu(device_of(cpu=cpu, gpu=gpu), runtime, engines.find(engine))


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
