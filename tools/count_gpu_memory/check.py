"""`make gpu-memory-check`: compares what Caffe's CUDA build asks the GPU for with the prediction.

    python tools/count_gpu_memory/check.py [--python COMMAND] [NAME...]

Runs every net of nets.py (or those whose names contain a NAME) for two updates in GPU mode in the
image that tools/image/build.py builds, with gpu.c in place of a GPU, and compares the bytes with
`caffe-batch memory`: they must be equal. Writes benchmarks/results/gpu_memory.json if all nets ran.
Needs a C compiler and, for the image, root and buildah. With COMMAND, a Python on this machine that
imports a CUDA build of Caffe is used instead.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from tools.count_gpu_memory.nets import WholeNet, doc_nets, fetch_doc, own_nets
from tools.image.build import IMAGES, container_of

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "gpu_memory.json"
COLUMNS = "{:38} {:>5} {:>15} {:>15} {:>12}"

#: The keys that measure.py and the prediction have in common.
COMPARED = ("after_build", "after_two_updates", "rounding")


def build_library(folder: Path) -> Path:
    """Compiles gpu.c into ``folder``."""
    library = folder / "libcount_gpu_memory.so"
    subprocess.run(
        ["cc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
         "-o", library, HERE / "gpu.c", "-lpthread"],
        check=True,
    )  # fmt: skip
    return library


def predicted(job: Path) -> dict[str, int]:
    """The prediction of ``caffe-batch memory`` for a job, under the names of measure.py."""
    recipe = read_recipe(job / "solver.prototxt")
    prediction = CaffeMemory(recipe, Sources((job,))).at()
    return {
        "after_build": prediction.after_build_bytes,
        "after_two_updates": prediction.after_two_updates_bytes,
        "rounding": prediction.rounding_bytes,
    }


@contextmanager
def runtime(command: str | None, folder: Path) -> Iterator[list[str]]:
    """Yields the start of a command line for the CUDA build's Python, with access to ``folder``."""
    if command is not None:
        yield shlex.split(command)
        return
    with container_of(IMAGES["gpu"], folder) as inside:
        yield [*inside, "/opt/caffe-batch/bin/python"]


def measured(python: Sequence[str], library: Path, job: Path) -> dict[str, int] | None:
    """What measure.py counts for a job; None if Caffe aborted."""
    preload = ["env", f"LD_PRELOAD={library}", "GLOG_minloglevel=2", "OPENBLAS_NUM_THREADS=1"]
    *before, interpreter = python
    done = subprocess.run(
        [*before, *preload, interpreter, library.with_name("measure.py"), job],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    found: dict[str, int] | None = json.loads(lines[-1]) if lines else None
    return found


def compare(
    nets: Sequence[WholeNet], python: Sequence[str], library: Path, folder: Path
) -> list[dict[str, Any]]:
    """Measures each net at each batch size and prints a row for each."""
    print(COLUMNS.format("net", "batch", "predicted", "counted", "difference"))
    rows = []
    for net in nets:
        for size, job in net.jobs(folder):
            expected, found = predicted(job), measured(python, library, job)
            shutil.rmtree(job)
            counted = found and found["after_two_updates"]
            difference = counted and expected["after_two_updates"] - counted
            print(
                COLUMNS.format(
                    net.name, size, f"{expected['after_two_updates']:,}",
                    f"{counted:,}" if counted else "aborted", str(difference),
                ),
                flush=True,
            )  # fmt: skip
            equal = found is not None and all(expected[key] == found[key] for key in COMPARED)
            rows.append({"net": net.name, "batch_size": size, "counted": found, "equal": equal})
            if not equal:
                print(f"  predicted {expected}\n  counted   {found}", flush=True)
    return rows


def main() -> int:
    """Compares the requested nets; 1 if any differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", metavar="COMMAND", help="a Python with a CUDA build of Caffe")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("COUNT_GPU_MEMORY_FOLDER")) as scratch:
        folder = Path(scratch)
        fetch_doc(folder)
        library = build_library(folder)
        shutil.copy(HERE / "measure.py", folder)
        every = [*own_nets(), *doc_nets(folder)]
        names = options.names or [""]
        nets = [net for net in every if any(name in net.name for name in names)]
        with runtime(options.python, folder) as python:
            rows = compare(nets, python, library, folder)
    equal = sum(row["equal"] for row in rows)
    print(f"{equal} of {len(rows)} nets equal to the byte")
    if len(nets) == len(every):
        about = (
            "bytes that Caffe 1.0's CUDA build asks cudaMalloc for, counted without a GPU by"
            " tools/count_gpu_memory/check.py; equal: caffe-batch memory predicts the same"
        )
        RESULTS.write_text(json.dumps({"about": about, "nets": rows}, indent=1) + "\n")
    return 0 if equal == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
