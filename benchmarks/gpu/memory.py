"""The GPU memory of a process, according to NVML, compared with the prediction."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import nvml
from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.trainer import NotTrainedError, training
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.reserve import NET, SOLVER, default_reserve
from tools.count_gpu_memory.nets import WholeNet, own_nets

#: Layers whose thread makes its own cuBLAS and cuRAND handles.
WITH_THREAD = ("Data", "ImageData", "WindowData")

#: A net that takes almost no memory, and one that reads its data in a thread.
BARE = WholeNet("bare", (SOLVER, NET), (1, 1, 1), (2,))
READER = """\
layer { name: "records" type: "Data" top: "records" top: "labels" data_param { batch_size: 2 } }
layer { name: "unread" type: "Silence" bottom: "records" bottom: "labels" }
"""
READING = WholeNet("reading", (SOLVER, NET + READER), (1, 2, 3), (2,))


@dataclass(frozen=True)
class Usage:
    """The GPU memory of a process, in bytes.

    Attributes:
        peak_bytes: The most it held.
        held_bytes: What it held after its updates.
        source: ``process`` if NVML knows the process; ``device`` if the figure is the growth of the
            whole device, in a container whose processes NVML can't identify.
    """

    peak_bytes: int
    held_bytes: int
    source: str


@dataclass(frozen=True)
class Fixed:
    """What no prediction includes, in bytes.

    Attributes:
        process_bytes: Per process: the CUDA context, Caffe's kernels, handles.
        thread_bytes: In addition, per layer that reads in a thread.
    """

    process_bytes: int
    thread_bytes: int


@dataclass(frozen=True)
class Predicted:
    """What the model says about a job: requests, their rounding, layers with a thread."""

    requested_bytes: int
    rounding_bytes: int
    threads: int

    @property
    def allocated_bytes(self) -> int:
        return self.requested_bytes + self.rounding_bytes


def predicted(job: Path, solver: str = "solver.prototxt") -> Predicted:
    """The prediction for a job."""
    recipe = read_recipe(job / solver)
    prediction = CaffeMemory(recipe, Sources((job,))).at()
    threads = sum(
        layer.type in WITH_THREAD
        for net in (recipe.train, *recipe.tests)
        for _, layer in net.selected()
    )
    return Predicted(prediction.peak_bytes, prediction.rounding_bytes, threads)


def usage(bench: Bench, device: nvml.Device, job: Path, solver: str = "solver.prototxt") -> Usage:
    """Trains a job for two updates and observes the memory during and after them."""
    before = device.settled_bytes()
    with nvml.peak_of(device.used_bytes) as peak, training(bench, job, solver) as trained:
        held = device.used_bytes()
        own = machine.process_gpu_bytes(bench.gpu, trained.pid)
        passed = max(0, peak() - held)  # the part that was released before the end
    if own is None:
        return Usage(held - before + passed, held - before, "device")
    return Usage(own + passed, own, "process")


def fixed_cost(bench: Bench, device: nvml.Device, folder: Path) -> Fixed:
    """Measures what no prediction includes."""
    rest = []
    for net in (BARE, READING):
        ((_, job),) = net.jobs(folder)
        rest.append(usage(bench, device, job).peak_bytes - predicted(job).allocated_bytes)
    bare, reading = rest
    return Fixed(bare, max(0, reading - bare))


def row(expected: Predicted, found: Usage, fixed: Fixed, reserve_bytes: int) -> dict[str, Any]:
    """A row of the results.

    ``difference_bytes`` is what the process holds beyond the fixed cost and the prediction;
    ``within_reserve`` says whether a plan with that reserve would have fitted.
    """
    ours = fixed.process_bytes + expected.threads * fixed.thread_bytes
    difference = found.peak_bytes - ours - expected.allocated_bytes
    return {
        "predicted_bytes": expected.requested_bytes,
        "rounding_bytes": expected.rounding_bytes,
        "threads": expected.threads,
        "measured_peak_bytes": found.peak_bytes,
        "measured_held_bytes": found.held_bytes,
        "source": found.source,
        "difference_bytes": difference,
        "difference_by_predicted": round(difference / expected.allocated_bytes, 6),
        "within_reserve": found.peak_bytes <= expected.requested_bytes + reserve_bytes,
    }


def nets(quick: bool) -> Iterator[tuple[WholeNet, tuple[int, ...]]]:
    """The nets with their batch sizes; with ``quick``, only the smallest of each."""
    for net in own_nets():
        yield net, net.batch_sizes[:1] if quick else net.batch_sizes


def lines(quick: bool) -> list[str]:
    """What would be measured."""
    first = "the fixed cost: a process with a tiny net, and one with a Data layer more"
    return [first] + [
        f"{net.name}, batch_size {', '.join(map(str, sizes))}" for net, sizes in nets(quick)
    ]


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Measures all nets; those that need more memory than the GPU has are listed as left out."""
    reserve = default_reserve(bench.gpu).bytes
    rows: list[dict[str, Any]] = []
    with nvml.device(bench.gpu) as device:
        idle = device.settled_bytes()
        fixed = fixed_cost(bench, device, folder)
        for net, sizes in nets(bench.quick):
            for size, job in net.jobs(folder):
                if size not in sizes:
                    continue
                about = {"net": net.name, "batch_size": size}
                expected = predicted(job)
                if expected.allocated_bytes + reserve > device.free_bytes():
                    rows.append({**about, "skipped": "larger than the GPU"})
                    continue
                try:
                    found = usage(bench, device, job)
                    rows.append({**about, **row(expected, found, fixed, reserve)})
                except NotTrainedError as error:
                    rows.append({**about, "error": error.message, "within_reserve": False})
                print(rows[-1], flush=True)
                shutil.rmtree(job)
    return {
        "passed": all(each.get("within_reserve", True) for each in rows),
        "used_before_bytes": idle,
        "reserve_bytes": reserve,
        "fixed_process_bytes": fixed.process_bytes,
        "fixed_thread_bytes": fixed.thread_bytes,
        "nets": rows,
    }


PART = Part(
    "memory",
    "NVML's memory of a process at its peak beside the prediction",
    (10, 4),
    lines,
    measure,
)
