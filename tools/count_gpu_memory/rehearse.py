"""Runs the workers of benchmarks/gpu in GPU mode in the GPU image, with gpu.c as the GPU.

    python tools/count_gpu_memory/rehearse.py

No number is compared, as kernels compute nothing here: but every case, net and size must run
without a failed check, and a full GPU must be reported as full. Needs root, buildah and the image.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu import fit, layers, memory, speed
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.layer_cases import cases
from benchmarks.gpu.trainer import NotTrainedError, training
from caffe_batch.jobs.ending import EndReason
from caffe_batch.runtimes import Runtime
from tools.count_gpu_memory.check import build_library
from tools.count_gpu_memory.nets import own_nets
from tools.image.build import IMAGES, ROOT, container_of
from tools.image.check import expect


@dataclass(frozen=True)
class Preloaded(Runtime):
    """The image's Python in a container, with the library that keeps accounts.

    Attributes:
        inside: The start of a command line that runs in the container.
        settings: Its environment, as arguments of ``env``.
    """

    inside: tuple[str, ...]
    settings: tuple[str, ...]

    def command(self, args: Sequence[str]) -> list[str]:
        there = """sh -c 'cd "$0" && exec "$@"' "$PWD" env "$@" """
        script = f"exec {shlex.join(self.inside)} {there}"
        python = "/opt/caffe-batch/bin/python"
        return ["sh", "-c", script, "sh", *self.settings, python, *args]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


def rehearse_layers(bench: Bench, folder: Path) -> None:
    """Runs every case."""
    chosen = list(cases())
    found = layers.run_cases(chosen, bench.runtime, bench.environment(), "gpu", folder)
    for case, outcome in zip(chosen, found, strict=True):
        expect(outcome.arrays is not None, f"{case.name}: {outcome.log}")
    print(f"layers: {len(chosen)} cases ran")


def rehearse_training(bench: Bench, folder: Path) -> None:
    """Trains the smallest batch of each net of the parts memory and speed."""
    for net in (memory.BARE, memory.READING, *own_nets()):
        size, job = next(net.jobs(folder))
        with training(bench, job):
            print(f"memory: {net.name}, batch_size {size} ran", flush=True)
    known = {net.name: net for net in own_nets()}
    for series in speed.SERIES:
        size, job = series.batch_sizes[-1], folder / f"speed-{series.net}"
        speed.write_job(known[series.net], size, 2, job)
        with training(bench, job, warm_up=1, turns=2) as trained:
            expect(len(trained.seconds) == 2, "not every turn was timed")
            print(f"speed: {series.net}, batch_size {size} ran", flush=True)


def rehearse_full(bench: Bench, folder: Path, limit: int) -> None:
    """On a GPU of ``limit`` bytes, a net runs out of memory, and the ballast takes all of it."""
    _, job = next(memory.READING.jobs(folder))
    try:
        with training(bench, job):
            expect(False, "a net ran on a full GPU")
    except NotTrainedError as error:
        expect(error.ending.reason is EndReason.GPU_MEMORY, str(error))
        print(f"fit: {error.message}")
    with fit.ballast(bench) as take:
        expect(take(limit) and not take(1), "the ballast doesn't see the limit")


def main() -> None:
    """Rehearses all of it."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        container_of(IMAGES["gpu"], Path(scratch), ROOT) as inside,
    ):
        folder = Path(scratch)
        preload = f"LD_PRELOAD={build_library(folder)}"
        settings = (preload, "GLOG_minloglevel=0", "OPENBLAS_NUM_THREADS=1")
        bench = Bench(Preloaded("image", tuple(inside), settings))
        rehearse_layers(bench, folder / "layers")
        rehearse_training(bench, folder)
        limit = 300  # fewer than the smallest net takes
        full = (*settings, f"COUNT_GPU_MEMORY_LIMIT={limit}")
        (folder / "full").mkdir()
        rehearse_full(Bench(Preloaded("image", tuple(inside), full)), folder / "full", limit)


if __name__ == "__main__":
    main()
