"""How fast the engines train on the CPU, side by side: the table of docs/pytorch.md.

    python benchmarks/engines.py [--case NAME]... [--turns N] [--json FILE]

Real Caffe and the PyTorch engine train the same net on the same samples, which are in memory
already, by turns of about a second: while one works, the other waits. With one thread the processor
time of an update counts, which other load on the machine disturbs little; with two, its wall time,
which needs a quiet machine. Each turn gives a ratio; the median of the ratios is the result, its
spread the quartiles. Eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from caffe_batch import runtimes
from caffe_batch.engines.torch.engine import environment
from caffe_batch.engines.work import thread_limits
from caffe_batch.rendering import render

WORKERS = Path(__file__).parent / "engine_workers"

#: LeNet as Caffe's MNIST example trains it.
LENET = """
name: "LeNet"
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

#: A rate at which the few samples aren't learnt by heart, which would leave nothing to compute.
SOLVER = """\
net: "net.prototxt"
type: "SGD"
base_lr: 1e-5
momentum: 0.9
weight_decay: 0.0005
lr_policy: "fixed"
max_iter: 100000000
snapshot_after_train: false
solver_mode: CPU
random_seed: 1
"""


@dataclass(frozen=True)
class Case:
    """A net and its batch.

    Attributes:
        template: Where the net is; None for LeNet.
        batch: Its batch_size.
        shape: Of a sample.
        classes: Labels.
        updates: In a turn.
        least: The ratio to Caffe's processor time that is promised.
    """

    template: str | None
    batch: int
    shape: tuple[int, int, int]
    classes: int
    updates: int
    least: float


CASES = {
    "LeNet b=64": Case(None, 64, (1, 28, 28), 10, 10, 1.4),
    "CaffeNet b=16": Case("caffenet", 16, (3, 227, 227), 1000, 2, 1.45),
    "ResNet-50 b=4": Case("resnet50", 4, (3, 224, 224), 1000, 1, 1.6),
}


class Worker:
    """A process that works on demand.

    Args:
        process: It, with pipes.
        errors: Where its standard error goes.
    """

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self._errors = process, errors

    def work(self, number: int) -> dict[str, float]:
        """What some updates, or batches, took."""
        given, said = self.process.stdin, self.process.stdout
        if given is None or said is None:
            raise ValueError("the worker has no pipes")
        given.write(f"{number}\n")
        given.flush()
        line = said.readline()
        if not line:
            sys.exit(f"the worker has ended: {self._errors.read_text()[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def workers(
    task: str, arguments: Sequence[str], threads: int, folder: Path
) -> Iterator[tuple[Worker, Worker]]:
    """Caffe's and PyTorch's, both started.

    Args:
        task: Which of the scripts in engine_workers/.
        arguments: Of both scripts.
        threads: Of each.
        folder: Where they work.
    """
    runtime = runtimes.find()
    commands = {
        "caffe": (
            runtime.command([str(WORKERS / f"caffe_{task}.py"), *arguments]),
            {**runtime.environment(), **thread_limits(threads)},
        ),
        "torch": (
            [sys.executable, str(WORKERS / f"torch_{task}.py"), *arguments],
            {**os.environ, **environment(threads)},
        ),
    }
    started = []
    try:
        for name, (command, variables) in commands.items():
            errors = folder / f"{name}.txt"
            with errors.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=folder, env=variables, text=True, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=file,
                )  # fmt: skip
            started.append(Worker(process, errors))
        yield started[0], started[1]
    finally:
        for worker in started:
            worker.process.communicate()


def write_case(case: Case, folder: Path) -> None:
    """Its net with inputs in place of data layers, a solver, and a batch."""
    shape = (case.batch, *case.shape)
    given = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in sizes)} }} }} }}\n"
        for name, sizes in (("data", shape), ("label", shape[:1]))
    )
    text = LENET if case.template is None else of_template(case.template)
    (folder / "net.prototxt").write_text(given + text)
    (folder / "solver.prototxt").write_text(SOLVER)
    draw = np.random.default_rng(1)
    np.savez(
        folder / "inputs.npz",
        data=draw.standard_normal(shape, np.float32),
        label=draw.integers(case.classes, size=case.batch).astype(np.float32),
    )


def of_template(name: str) -> str:
    """A template's net for training, without its data layers."""
    from google.protobuf import text_format

    from caffe_batch.net.filtering import net_state, select
    from caffe_batch.prototxt import parse_net
    from caffe_batch.schema import caffe_pb2

    net = parse_net(render(name, {"data": "dummy"}))
    state = net_state("TRAIN", net, caffe_pb2.NetState())
    kept = [layer for _, layer in select(net.layer, state) if layer.bottom]
    return text_format.MessageToString(caffe_pb2.NetParameter(layer=kept))


def compare(case: Case, threads: int, turns: int) -> dict[str, Any]:
    """The milliseconds of an update on both engines, and the ratio of each turn."""
    kind = "processor_s" if threads == 1 else "wall_s"
    taken: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(case, folder)
        arguments = [str(folder / "solver.prototxt"), str(folder / "inputs.npz")]
        with workers("worker", arguments, threads, folder) as both:
            for worker in both:
                worker.work(2)
            for _ in range(turns):
                caffe, torch = (worker.work(case.updates) for worker in both)
                taken.append((caffe[kind], torch[kind]))
    return {
        "threads": threads,
        "time": "processor" if threads == 1 else "wall",
        **summary([(1000 * a / case.updates, 1000 * b / case.updates) for a, b in taken], "ms"),
        "losses": [round(caffe["loss"], 4), round(torch["loss"], 4)],
    }


def summary(taken: Sequence[tuple[float, float]], unit: str) -> dict[str, Any]:
    """The medians of pairs of times, Caffe's first; those of their ratios, with the quartiles."""
    low, middle, high = statistics.quantiles([caffe / torch for caffe, torch in taken], n=4)
    caffes, torchs = (statistics.median(times) for times in zip(*taken, strict=True))
    return {
        f"caffe_{unit}": round(caffes, 3),
        f"torch_{unit}": round(torchs, 3),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
    }


def versions() -> dict[str, str]:
    """What is measured, where, and how busy the machine is beforehand."""
    info = runtimes.inspect(runtimes.find())
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    code = "import torch; print(torch.__version__)"
    torch = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "caffe": info.engine_version,
        "torch": torch.stdout.strip(),
        "processor": processor,
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a line a case; writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--threads", type=int, action="append", help="1 and 2 if not given")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"versions": versions(), "cases": {}}
    for name in options.case or CASES:
        found = [
            compare(CASES[name], threads, options.turns) for threads in options.threads or (1, 2)
        ]
        results["cases"][name] = found
        for each in found:
            low, high = each["quartiles"]
            print(
                f"{name}, {each['threads']} thread(s), {each['time']} time of an update: Caffe "
                f"{each['caffe_ms']:,.2f} ms, PyTorch {each['torch_ms']:,.2f} ms, ratio "
                f"{each['ratio']:.2f} ({low:.2f} to {high:.2f})",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
