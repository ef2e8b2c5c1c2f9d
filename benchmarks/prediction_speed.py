"""How long a prediction takes compared with pycaffe building the same net; and how exact it is.

    python benchmarks/prediction_speed.py [--json FILE]

For ResNet-101 and ResNet-152 from templates/, already read: layers, graph, shapes and bytes at one
batch size; a plan with the search over all divisors of 4096; `caffe-batch memory` as a process; and
pycaffe's `caffe.Net` on the same net at batch size 1 (without its import). Each figure is the best
of several runs, to exclude other load. The ratios hold on any machine, the seconds only on this
one. Then the measured cases of tests/data: predicted and measured bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from caffe_batch import runtimes
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, divisors, make_plan
from caffe_batch.rendering import render

ROOT = Path(__file__).resolve().parent.parent
BUDGET = Budget(16 * 2**30, 0)
BUILD = """
import sys, time
import caffe
start = time.perf_counter()
net = caffe.Net(sys.argv[1], caffe.TRAIN)
print(time.perf_counter() - start)
"""


def timed(call: Callable[[], object], repeats: int = 7) -> float:
    """The shortest duration of a call, in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def speeds(name: str, folder: Path) -> dict[str, float]:
    """Seconds of each step for a template, and how many layers its TRAIN net has in the file."""
    path = folder / f"{name}.prototxt"
    path.write_text(render(name, {"data": "dummy", "batch_size": 1}))
    recipe = read_recipe(path)
    command = [sys.executable, "-m", "caffe_batch", "memory", str(path), "--json"]
    found = {
        "prediction_s": timed(lambda: CaffeMemory(recipe, Sources()).at(8), 15),
        "search_s": timed(lambda: CaffeMemory(recipe, Sources()).peaks(divisors(4096))),
        "plan_s": timed(
            lambda: make_plan(
                CaffeMemory(recipe, Sources()), BUDGET, PlanOptions(effective_batch=4096)
            )
        ),
        "process_s": timed(lambda: subprocess.run(command, check=True, capture_output=True), 5),
    }
    runtime = runtimes.find()
    build = runtime.command(["-c", BUILD, str(path)])
    env = {**runtime.environment(), "GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1"}
    builds = [
        float(subprocess.run(build, env=env, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    layers = len(recipe.train.selected())
    return {**found, "pycaffe_build_s": min(builds), "layers": layers}


def exactness(folder: Path) -> list[tuple[str, int, int, int]]:
    """(name, batch, predicted peak, measured peak) of each measured case."""
    data = json.loads((ROOT / "tests" / "data" / "gpu_memory.json").read_text())
    rows = []
    for case in data["cases"]:
        (folder / "net.prototxt").write_text(case["net"])
        (folder / "solver.prototxt").write_text(case["solver"])
        recipe = read_recipe(folder / "net.prototxt", folder / "solver.prototxt")
        model = CaffeMemory(recipe, Sources(input_shapes={"data": (3, 19, 23)}))
        measured = case["device_bytes"]["after_two_updates"]
        rows.append((case["name"], case["batch"], model.at().after_two_updates_bytes, measured))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: speeds(name, Path(scratch)) for name in ("resnet101", "resnet152")}
        rows = exactness(Path(scratch))
    for name, figures in found.items():
        print(f"{name}, {figures['layers']} layers:")
        for step in ("prediction_s", "search_s", "plan_s", "process_s"):
            ratio = figures["pycaffe_build_s"] / figures[step]
            print(f"  {step:16} {figures[step] * 1e3:7.1f} ms; pycaffe's build takes {ratio:.1f} x")
        print(f"  pycaffe_build_s  {figures['pycaffe_build_s'] * 1e3:7.1f} ms")
    print(f"\n{'case':28} {'batch':>5} {'predicted':>12} {'measured':>12} ratio")
    for name, batch, predicted, measured in rows:
        print(f"{name:28} {batch:5} {predicted:12} {measured:12} {predicted / measured:.6f}")
    exact = sum(predicted == measured for _, _, predicted, measured in rows)
    print(f"{exact} of {len(rows)} exact to the byte")
    if options.json:
        options.json.write_text(json.dumps({**found, "exact": exact, "cases": len(rows)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
