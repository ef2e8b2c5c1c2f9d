"""What this machine has for caffe-batch, and what it lacks for what."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.base import RuntimeInfo
from caffe_batch.runtimes.discovery import find
from caffe_batch.runtimes.host import missing_tools
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.installation import NEEDED_BYTES
from caffe_batch.runtimes.reserve import Reserve, default_reserve, measure_reserve
from caffe_batch.runtimes.store import data_directory, installed
from caffe_batch.sizes import format_size


@dataclass(frozen=True)
class Examination:
    """Everything that was found out about this machine.

    Attributes:
        system: The operating system and the processor.
        python, protobuf: Versions of what caffe-batch itself runs on.
        data_directory: Where runtimes are installed.
        free_bytes: Free there.
        missing_tools: Programs that an install needs and that aren't here.
        runtime: Name of the runtime that a training would use, or None.
        runtime_info: What it is.
        runtime_problem: Why there is none.
        installed: Caffe's version for each installed runtime.
        gpus: The GPUs.
        reserve: What the first of them gives to a process before Caffe asks for anything.
        extras: The optional packages.
    """

    system: str
    python: str
    protobuf: str
    data_directory: str
    free_bytes: int
    missing_tools: tuple[str, ...]
    runtime: str | None
    runtime_info: RuntimeInfo | None
    runtime_problem: str | None
    installed: dict[str, str]
    gpus: machine.Gpus
    reserve: Reserve
    extras: tuple[machine.Extra, ...]


@dataclass(frozen=True)
class Lack:
    """Something that is missing: what, for what it is needed, and what to do about it."""

    what: str
    needed_for: str
    remedy: str


def examine() -> Examination:
    """Looks at everything. Takes seconds, because it runs the runtime.

    Where Caffe can use a GPU, its reserve is measured and remembered.
    """
    runtime = name = info = problem = None
    there: dict[str, str] = {}
    try:
        there = {each.name: each.record.caffe_version for each in installed().values()}
        runtime = find()
        name, info = runtime.name, inspect(runtime)
    except RuntimeMissingError as error:
        problem = error.message
    home: Path = data_directory()
    gpus = machine.gpus()
    if runtime and info and info.gpu and not info.gpu_problem and gpus.devices:
        reserve = measure_reserve(runtime, gpus)
    else:
        reserve = default_reserve()
    return Examination(
        system=f"{platform.system()} {platform.release()} on {platform.machine()}",
        python=platform.python_version(),
        protobuf=machine.protobuf(),
        data_directory=str(home),
        free_bytes=machine.free_space(home),
        missing_tools=tuple(missing_tools()),
        runtime=name,
        runtime_info=info,
        runtime_problem=problem,
        installed=there,
        gpus=gpus,
        reserve=reserve,
        extras=tuple(machine.extras()),
    )


def lacks(found: Examination) -> list[Lack]:
    """What a machine lacks, the most important first."""
    lacking = []
    if found.runtime_info is None:
        lacking.append(_runtime(found))
    if found.gpus.problem:
        lacking.append(
            Lack(
                f"an answer about GPUs ({found.gpus.problem})",
                "--gpu-memory auto and --gpu-memory 80%",
                "give the memory as a size, for example --gpu-memory 8GiB",
            )
        )
    if found.gpus.devices and found.runtime_info and not found.runtime_info.gpu:
        lacking.append(
            Lack(
                "a Caffe with GPU code",
                "training on this machine's GPU (train uses the CPU)",
                "give a Python whose caffe has it with --runtime /path/to/python",
            )
        )
    if found.runtime_info and found.runtime_info.gpu_problem:
        lacking.append(
            Lack(
                f"a GPU that Caffe can use ({found.runtime_info.gpu_problem})",
                "training on the GPU",
                "check the driver with nvidia-smi",
            )
        )
    for extra in found.extras:
        if extra.version is None:
            why = f" ({extra.problem})" if extra.problem else ""
            remedy = f"pip install 'caffe-batch[{extra.extra}]'"
            lacking.append(Lack(f"{extra.package}{why}", extra.needed_for, remedy))
    return lacking


def _runtime(found: Examination) -> Lack:
    remedy = "caffe-batch runtime install"
    if found.missing_tools:
        remedy = (
            "give a Python that can import caffe with --runtime /path/to/python"
            f" (an install needs {' and '.join(found.missing_tools)})"
        )
    elif found.free_bytes < NEEDED_BYTES:
        remedy += (
            f", after making space: it needs {format_size(NEEDED_BYTES)},"
            f" and {format_size(found.free_bytes)} are free"
        )
    return Lack(f"a runtime ({found.runtime_problem})", "train", remedy)
