"""The largest batch that really fits a budget, compared with the planned one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import nvml
from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.memory import Fixed, Predicted, fixed_cost, predicted
from benchmarks.gpu.program import caffe_batch
from benchmarks.gpu.trainer import NotTrainedError, training
from caffe_batch.jobs.ending import EndReason
from caffe_batch.sizes import format_size, parse_size
from tools.count_gpu_memory.nets import own_nets, write_job

FILLER = Path(__file__).with_name("fill_worker.py")

#: cudaMalloc takes memory from the device in pieces of this size.
GRAIN_BYTES = 2 * 1024**2

#: Net, effective batch, and the memory that is left on the GPU.
BUDGETS = (("caffenet", 256, "2GiB"), ("resnet50", 32, "6GiB"), ("cifar10", 100, "576MiB"))


@dataclass(frozen=True)
class Split:
    """A split that was tried.

    Attributes:
        job: Its folder.
        expected: The memory it takes, as predicted.
        ending: Why it didn't run; None if it did.
    """

    batch_size: int
    iter_size: int
    expected: Predicted
    ending: str | None

    def json(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "predicted_bytes": self.expected.requested_bytes,
            "ran": self.ending is None,
            "ending": self.ending,
        }


@contextmanager
def ballast(bench: Bench) -> Iterator[Callable[[int], bool]]:
    """A process that takes GPU memory: ``take(bytes)`` says whether that succeeded."""
    with subprocess.Popen(
        bench.runtime.command([str(FILLER)]), env=bench.environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        asked, told = child.stdin, child.stdout
        if asked is None or told is None or told.readline() != "ready\n":
            raise RuntimeError("the process that fills the GPU did not start")

        def take(size: int) -> bool:
            asked.write(f"{size}\n")
            asked.flush()
            return told.readline() == "0\n"

        yield take


def fill(take: Callable[[int], bool], free: Callable[[], int], budget: int) -> int:
    """Takes memory until the budget or slightly more is left; returns what is left, in bytes."""
    size = budget
    while (left := free() - budget) >= GRAIN_BYTES and size >= GRAIN_BYTES:
        size = left // GRAIN_BYTES * GRAIN_BYTES
        while size >= GRAIN_BYTES and not take(size):
            size //= 2
    return free()


def explanation(expected: Predicted, fixed: Fixed, free: int, reserve: int) -> str | None:
    """Why a batch larger than the planned one runs; None if the model says it can't."""
    ours = fixed.process_bytes + expected.threads * fixed.thread_bytes
    margin = free - ours - expected.allocated_bytes
    if margin < 0:
        return None
    return (
        f"the plan keeps {format_size(reserve)} for context and handles, and they take"
        f" {format_size(ours)} here: {format_size(margin)} are left beside this batch"
    )


def budgets(quick: bool) -> tuple[tuple[str, int, str], ...]:
    """The entries of BUDGETS that are measured."""
    return BUDGETS[-1:] if quick else BUDGETS


def plan(job: Path, out: str, *wanted: str) -> dict[str, Any]:
    """The plan of ``caffe-batch plan`` for a job, written to the folder ``out`` inside it."""
    said = caffe_batch(
        job, "plan", "solver.prototxt", "--train-records", "100000", "--keep-tests",
        "--out", out, "--json", *wanted,
    )  # fmt: skip
    return json.loads(said)  # type: ignore[no-any-return]


def attempt(bench: Bench, job: Path, out: str, planned: dict[str, Any]) -> Split:
    """Runs a planned split for two updates."""
    solver, ending = f"{out}/solver.prototxt", None
    try:
        with training(bench, job, solver):
            pass
    except NotTrainedError as error:
        if error.ending.reason is not EndReason.GPU_MEMORY:
            raise
        ending = error.ending.detail
    sizes = planned["batch_size"], planned["iter_size"]
    return Split(*sizes, predicted(job, solver), ending)


def try_sizes(bench: Bench, job: Path, batch: int, free: int) -> tuple[int, list[Split]]:
    """The plan's reserve; its split, which is run, and larger ones until one doesn't fit."""
    chosen = plan(job, "planned", "--effective-batch", str(batch), "--gpu-memory", str(free))
    tried = [attempt(bench, job, "planned", chosen)]
    sizes = sorted(each["batch_size"] for each in chosen["candidates"])
    for size in sizes:
        if size > chosen["batch_size"] and tried[-1].ending is None:
            given = ("--batch-size", str(size), "--iter-size", str(batch // size))
            larger = plan(job, f"b{size}", *given, "--gpu-memory", "1TiB")
            tried.append(attempt(bench, job, f"b{size}", larger))
    return chosen["reserve_bytes"], tried


def row(budget: int, free: int, reserve: int, fixed: Fixed, tried: list[Split]) -> dict[str, Any]:
    """A row of the results; see :func:`explanation`."""
    planned, *larger = tried
    above = [split for split in larger if split.ending is None]
    reasons = [explanation(split.expected, fixed, free, reserve) for split in above]
    fitting = [split.batch_size for split in tried if split.ending is None]
    return {
        "budget_bytes": budget,
        "free_bytes": free,
        "reserve_bytes": reserve,
        "planned": planned.json(),
        "larger": [split.json() for split in larger],
        "largest_that_fits": max(fitting, default=None),
        "explanations": reasons,
        "passed": planned.ending is None and all(reasons),
    }


def lines(quick: bool) -> list[str]:
    """What would be measured."""
    return [
        f"{name}, effective batch {batch}, {size} left on the GPU: the plan's batch_size, and"
        " larger ones until one runs out of memory"
        for name, batch, size in budgets(quick)
    ]


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Measures each budget for which the GPU has enough memory."""
    rows = []
    known = {net.name: net for net in own_nets()}
    with nvml.device(bench.gpu) as device:
        fixed = fixed_cost(bench, device, folder)
        for name, batch, size in budgets(bench.quick):
            about, budget = {"net": name, "effective_batch": batch}, parse_size(size)
            device.settled_bytes()
            if device.free_bytes() < budget:
                rows.append({**about, "skipped": "the GPU has less", "passed": True})
                continue
            job = folder / name
            job.mkdir()
            write_job(known[name], batch, job)
            with ballast(bench) as take:
                free = fill(take, device.free_bytes, budget)
                reserve, tried = try_sizes(bench, job, batch, free)
            rows.append({**about, **row(budget, free, reserve, fixed, tried)})
            print(rows[-1], flush=True)
    return {
        "passed": all(each["passed"] for each in rows),
        "fixed_process_bytes": fixed.process_bytes,
        "fixed_thread_bytes": fixed.thread_bytes,
        "budgets": rows,
    }


PART = Part(
    "fit", "the largest batch that fits a full GPU beside the planned one", (8, 2), lines, measure
)
