"""What this machine has for caffe-batch, and what is missing on it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caffe_batch import engines
from caffe_batch.engines.base import RuntimeInfo
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.discovery import find
from caffe_batch.runtimes.host import missing_tools
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.installation import NEEDED_BYTES
from caffe_batch.runtimes.reserve import Reserve, default_reserve, measure_reserve
from caffe_batch.runtimes.store import data_directory, installed
from caffe_batch.sizes import format_size


@dataclass(frozen=True)
class Examination:
    """Everything that was found on this machine.

    Attributes:
        system: The operating system and the processor.
        python, protobuf: Versions of what caffe-batch itself runs on.
        data_directory: Where runtimes are installed.
        free_bytes: Free disk space there.
        missing_tools: Programs that an install needs and that this machine doesn't have.
        runtime: Name of the runtime that training would use, or None.
        runtime_info: What that runtime says about itself.
        runtime_problem: Why there is no runtime.
        installed: Caffe's version for each installed runtime.
        gpus: The GPUs.
        reserve: Memory that the first GPU gives to a process before Caffe asks for any.
        extras: The optional packages.
        others: What the other engines' runtimes say about themselves, by the engine's title; or
            why there is none.
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
    others: Mapping[str, RuntimeInfo | str] = field(default_factory=dict)


@dataclass(frozen=True)
class MissingItem:
    """Something that is missing: what it is, what needs it, and how to get it."""

    what: str
    needed_for: str
    remedy: str


def examine() -> Examination:
    """Examines this machine. Takes seconds, because it runs the runtime.

    Where Caffe can use a GPU, the GPU's reserve is measured and remembered.
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
        reserve = measure_reserve(runtime, machine.cuda_gpus())
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
        others=dict(_other_engines()),
    )


def _other_engines() -> Iterator[tuple[str, RuntimeInfo | str]]:
    for name in engines.NAMES:
        if name != engines.DEFAULT:
            engine = engines.find(name)
            try:
                yield engine.title, inspect(find(None, engine), engine)
            except RuntimeMissingError as error:
                yield engine.title, error.message


def missing_items(found: Examination) -> list[MissingItem]:
    """What is missing on a machine, the most important first."""
    missing = []
    if found.runtime_info is None:
        missing.append(_runtime(found))
    if found.gpus.problem:
        missing.append(
            MissingItem(
                f"information about GPUs ({found.gpus.problem})",
                "--gpu-memory auto and --gpu-memory 80%",
                "give the memory as a size, for example --gpu-memory 8GiB",
            )
        )
    if found.gpus.devices and found.runtime_info and not found.runtime_info.gpu:
        missing.append(
            MissingItem(
                "a Caffe with GPU code",
                "training on this machine's GPU (until then, train uses the CPU)",
                "with --runtime /path/to/python, name a Python whose caffe was built for GPUs",
            )
        )
    if found.runtime_info and found.runtime_info.gpu_problem:
        missing.append(
            MissingItem(
                f"a GPU that Caffe can use ({found.runtime_info.gpu_problem})",
                "training on the GPU",
                "check the driver with nvidia-smi",
            )
        )
    for name in engines.NAMES:
        engine = engines.find(name)
        problem = _problem(found.others.get(engine.title))
        if problem:
            remedy = f"{engine.remedy[0].lower()}{engine.remedy[1:]}"
            missing.append(MissingItem(problem, f"train --engine {name}", remedy))
    for extra in found.extras:
        if extra.version is None:
            why = f" ({extra.problem})" if extra.problem else ""
            remedy = f"pip install 'caffe-batch[{extra.extra}]'"
            missing.append(MissingItem(f"{extra.package}{why}", extra.needed_for, remedy))
    return missing


def _problem(other: RuntimeInfo | str | None) -> str | None:
    """What is missing for an engine; having no GPU is none of it."""
    if isinstance(other, RuntimeInfo):
        return other.gpu_problem if other.devices else None
    return other


def _runtime(found: Examination) -> MissingItem:
    remedy = "caffe-batch runtime install"
    if found.missing_tools:
        remedy = (
            "with --runtime /path/to/python, name a Python that can import caffe"
            f" (an install needs {' and '.join(found.missing_tools)})"
        )
    elif found.free_bytes < NEEDED_BYTES:
        remedy += (
            f", once there is space: it needs {format_size(NEEDED_BYTES)},"
            f" and {format_size(found.free_bytes)} are free"
        )
    return MissingItem(f"a runtime ({found.runtime_problem})", "train", remedy)
