"""What is measured: each part takes the setting and returns its figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import layers
from benchmarks.gpu.device import Seen, only_free, watch
from caffe_batch.memory import Model
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, Plan, SplitWishes, Wishes, make_plan
from caffe_batch.planning.split import Candidate
from caffe_batch.rendering.job_files import write_job
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.machine import free_gpu_bytes
from caffe_batch.training.job import JobDirectory
from caffe_batch.training.metrics import last_scores
from tools.count_gpu_memory.nets import WholeNet, own_nets

ROOT = Path(__file__).resolve().parents[2]

#: The nets of `fit` and `speed`, with the effective batch and the budget of the first.
FIT_NET, FIT_BATCH, FIT_BUDGET = "caffenet", 256, 3 * 2**30
SPEED_NET, SPEED_BATCH = "caffenet", 256

#: The demo's data, as tools/digits.py writes it.
DIGITS = ("digits_train_lmdb", "digits_test_lmdb")

#: Updates that are timed, so often; the best counts.
UPDATES, TURNS = 4, 5


@dataclass(frozen=True)
class Setting:
    """Where it is measured.

    Attributes:
        runtime: The Python with Caffe's GPU build.
        cpu_runtime: The Python with a CPU build to compare with; None for the GPU build's CPU mode.
        gpu: Number of the GPU; None to try a part out on the CPU.
        quick: Fewer nets and batch sizes.
    """

    runtime: Runtime
    cpu_runtime: Runtime | None = None
    gpu: int | None = 0
    quick: bool = False

    def watch(self, solver: Path | None, directory: Path, turns: Sequence[int]) -> Seen:
        """See :func:`benchmarks.gpu.device.watch`."""
        return watch(self.runtime, solver, directory, turns, self.gpu, self._free_bytes)

    def _free_bytes(self) -> int:
        return 0 if self.gpu is None else free_gpu_bytes(self.gpu)


def compare_layers(setting: Setting, folder: Path) -> dict[str, Any]:
    """All layer types, forward and backward, against the CPU."""
    (folder / "nets").mkdir()
    chosen = layers.cases(folder / "nets")
    reference = setting.cpu_runtime or setting.runtime
    expected = layers.run(chosen, reference, folder / "cpu", "cpu")
    mode = "cpu" if setting.gpu is None else "gpu"
    found = layers.run(chosen, setting.runtime, folder / "gpu", mode, setting.gpu or 0)
    rows = layers.compare(chosen, expected, found)
    missing = layers.uncovered(chosen, inspect(setting.runtime).layer_types)
    return {
        "about": f"relative L2 error of every top and gradient; at most {layers.TOLERANCE}",
        "reference": "CPU build" if setting.cpu_runtime else "the GPU build in CPU mode",
        "held": all(row["same"] for row in rows) and not missing,
        "types_without_a_case": missing,
        "types_left_out": layers.NOT_COMPARED,
        "cases_left_out": layers.LEFT_OUT,
        "cases": rows,
    }


def memory_jobs(setting: Setting) -> list[WholeNet]:
    """The nets whose memory is measured."""
    nets = list(own_nets())
    return (
        [replace(net, batch_sizes=net.batch_sizes[:1]) for net in nets] if setting.quick else nets
    )


def fixed_costs(setting: Setting, folder: Path) -> dict[str, int]:
    """What a process takes of a GPU beyond what Caffe asks the allocator for, in bytes.

    ``context`` with the context and the handles of Caffe's main thread; ``with_data`` also with
    those that the thread of a data layer makes, and the code of the kernels of a small net.
    """
    (net,) = (each for each in own_nets() if each.name == "digits")
    place = folder / "fixed"
    place.mkdir()
    (_, job), *_ = net.jobs(place)
    prediction = Model(read_recipe(job / "solver.prototxt"), Sources((job,))).at()
    asked = prediction.after_two_updates_bytes + prediction.rounding_bytes
    context = setting.watch(None, folder, ()).gpu_bytes
    trained = setting.watch(job / "solver.prototxt", job, (1, 1)).gpu_bytes
    return {"context": context, "with_data": trained - asked}


def measure_memory(setting: Setting, folder: Path) -> dict[str, Any]:
    """What the GPU's free memory goes down by, against the prediction and the fixed cost."""
    fixed = fixed_costs(setting, folder)
    rows = []
    for net in memory_jobs(setting):
        for size, job in net.jobs(folder):
            prediction = Model(read_recipe(job / "solver.prototxt"), Sources((job,))).at()
            solver = job / "solver.prototxt"
            seen = setting.watch(solver, job, (1, 1))
            predicted = prediction.after_two_updates_bytes + prediction.rounding_bytes
            rows.append(
                {
                    "net": net.name, "batch_size": size, "ran": seen.seconds is not None,
                    "predicted_bytes": prediction.after_two_updates_bytes,
                    "rounding_bytes": prediction.rounding_bytes,
                    "measured_bytes": seen.gpu_bytes,
                    "beside_fixed_and_predicted": (
                        seen.gpu_bytes - fixed["with_data"] - predicted
                    ),
                }
            )  # fmt: skip
            shutil.rmtree(job)
    return {
        "about": "bytes that the GPU's free memory goes down by during two updates (NVML)",
        "fixed_bytes": fixed,
        "held": all(row["ran"] for row in rows),
        "cases": rows,
    }


def next_larger(plan: Plan) -> Candidate | None:
    """The smallest split with a larger batch_size than the plan's."""
    larger = [each for each in plan.candidates if each.batch_size > plan.batch_size]
    return min(larger, key=lambda each: each.batch_size, default=None)


def judge_fit(planned: Seen, larger: Seen | None, free_bytes: int, needs: int) -> dict[str, Any]:
    """Whether the plan holds: its split runs, and the next larger one doesn't, or why it does."""
    ran = planned.seconds is not None
    found: dict[str, Any] = {"planned_runs": ran, "held": ran}
    if larger is not None:
        fits = larger.seconds is not None
        found["next_larger_runs"] = fits
        if fits:
            found["margin"] = (
                f"the next larger split takes {needs:,} bytes besides the fixed cost, and "
                f"{free_bytes:,} are free: the reserve is larger than what the context takes"
            )
        elif not larger.out_of_memory:
            found |= {"held": False, "problem": "the larger split failed for another reason"}
    return found


def check_fit(setting: Setting, folder: Path) -> dict[str, Any]:
    """The largest batch that really fits a budget against the planned one."""
    if setting.gpu is None:
        raise ValueError("only a GPU's memory can be held")
    (net,) = (each for each in own_nets() if each.name == FIT_NET)
    (_, job), *_ = replace(net, batch_sizes=(FIT_BATCH,)).jobs(folder)
    recipe = read_recipe(job / "solver.prototxt")
    model = Model(recipe, Sources((job,)))
    fixed = fixed_costs(setting, folder)
    rows = []
    for reserve in (max(fixed.values()), 512 * 2**20):
        budget = Budget(FIT_BUDGET, reserve)
        plan = make_plan(model, budget, Wishes(effective_batch=FIT_BATCH))
        other = next_larger(plan)
        with only_free(setting.runtime, setting.gpu, FIT_BUDGET) as free:
            planned = _run(setting, model, plan, job, (1,))
            larger = None
            if other is not None:
                split = SplitWishes(batch_size=other.batch_size)
                wishes = Wishes(effective_batch=FIT_BATCH, split=split)
                above = make_plan(model, Budget(2**50, reserve), wishes)
                larger = _run(setting, model, above, job, (1,))
        needs = 0 if other is None else other.predicted_peak_bytes or 0
        rows.append(
            {
                "net": FIT_NET, "effective_batch": FIT_BATCH, "budget_bytes": FIT_BUDGET,
                "reserve_bytes": reserve, "free_bytes": free,
                "planned": [plan.batch_size, plan.iter_size],
                "predicted_bytes": plan.predicted_peak_bytes,
                "next_larger": None if other is None else [other.batch_size, other.iter_size],
                **judge_fit(planned, larger, free, needs),
            }
        )  # fmt: skip
    return {
        "about": "another process leaves the budget free; the plan's split and the next larger run",
        "fixed_bytes": fixed,
        "held": all(row["held"] for row in rows),
        "cases": rows,
    }


def _run(setting: Setting, model: Model, plan: Plan, job: Path, turns: Sequence[int]) -> Seen:
    """Train a plan of the job's net; its files go beside the job, its data stays there."""
    target = job.with_name(
        f"{plan.batch_size}-of-{plan.effective_batch}-{plan.budget.reserve_bytes}"
    )
    files = write_job(plan, model.recipe, None, model.sources, target)
    return setting.watch(files.solver, job, turns)


def measure_speed(
    setting: Setting, folder: Path, name: str = SPEED_NET, effective: int = SPEED_BATCH,
    least: int = 8,
) -> dict[str, Any]:  # fmt: skip
    """Time per update against batch_size at a constant effective batch."""
    (net,) = (each for each in own_nets() if each.name == name)
    (_, job), *_ = replace(net, batch_sizes=(effective,)).jobs(folder)
    model = Model(read_recipe(job / "solver.prototxt"), Sources((job,)))
    sizes = [effective >> shift for shift in range(effective.bit_length())]
    sizes = [size for size in sizes if size >= least][: 3 if setting.quick else None]
    rows: list[dict[str, Any]] = []
    for size in sizes:
        wishes = Wishes(effective_batch=effective, split=SplitWishes(batch_size=size))
        plan = make_plan(model, Budget(2**50, 0), wishes)
        seen = _run(setting, model, plan, job, (1, *[UPDATES] * TURNS))
        row: dict[str, Any] = {"batch_size": size, "iter_size": plan.iter_size, "update_s": None}
        if seen.seconds is not None:
            row["update_s"] = min(seen.seconds[1:]) / UPDATES
        rows.append(row)
    fastest = next((row["update_s"] for row in rows if row["update_s"]), None)
    for row in rows:
        row["relative"] = row["update_s"] and fastest and row["update_s"] / fastest
    return {
        "about": f"best of {TURNS} turns of {UPDATES} updates; relative to the largest batch_size "
        "that runs, in the same run",
        "net": name, "effective_batch": effective,
        "held": fastest is not None,
        "cases": rows,
    }  # fmt: skip


def train_demo(setting: Setting, folder: Path) -> dict[str, Any]:
    """The digits demo through `caffe-batch plan` and `train`."""
    program = [sys.executable, "-m", "caffe_batch"]
    device = ["--cpu"] if setting.gpu is None else ["--gpu", str(setting.gpu)]

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True)

    there = [ROOT / "demo" / name for name in DIGITS]
    if all(path.is_dir() for path in there):
        for path in there:
            shutil.copytree(path, folder / path.name)
    else:  # needs scikit-learn, which the image hasn't
        run(sys.executable, str(ROOT / "tools" / "digits.py"), ".")
    for file in (ROOT / "prototxt" / "digits").iterdir():
        shutil.copy(file, folder)
    run(*program, "plan", "solver.prototxt", "--effective-batch", "256", "--gpu-memory", "5MiB",
        "--reserve", "0", "--out", "job")  # fmt: skip
    run(*program, "train", "job", "--quiet", "--runtime", setting.runtime.name, *device)
    job = JobDirectory(folder / "job")
    scores = last_scores(job.metrics)
    record = job.read_record()
    accuracy = next((each.value or 0.0 for each in scores if each.output == "accuracy"), 0.0)
    return {
        "about": "the digits, 400 updates of 64 x 4",
        "held": accuracy > 0.97,
        "accuracy": accuracy,
        "device": record.attempts[-1].device if record else None,
    }


#: What there is to measure, in this order.
PARTS: dict[str, Callable[[Setting, Path], dict[str, Any]]] = {
    "layers": compare_layers,
    "memory": measure_memory,
    "fit": check_fit,
    "demo": train_demo,
    "speed": measure_speed,
}


def describe(setting: Setting, names: Sequence[str]) -> list[str]:
    """What would be measured, a line each."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            about = (PARTS[name].__doc__ or "").splitlines()[0]
            lines.append(f"{name}: {about}")
            if name == "layers":
                chosen = layers.cases(Path(scratch))
                lines += [f"  {case.name}: {', '.join(sorted(case.types))}" for case in chosen]
            elif name == "memory":
                lines += [
                    f"  {net.name}: batch_size {', '.join(map(str, net.batch_sizes))}"
                    for net in memory_jobs(setting)
                ]
            elif name == "fit":
                lines.append(f"  {FIT_NET}: {FIT_BATCH} samples in {json.dumps(FIT_BUDGET)} bytes")
            elif name == "speed":
                lines.append(f"  {SPEED_NET}: {SPEED_BATCH} samples, batch_size 256 down to 8")
    return lines
