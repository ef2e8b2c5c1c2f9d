"""What a worker process takes in CPU mode beside Caffe's own requests: the reserve of a budget.

    python benchmarks/cpu_reserve.py [--runtime RUNTIME] [--json FILE]

Trains nets of several kinds for a few updates with the worker that ``train`` starts, and sets the
largest resident set of its process, as the kernel records it (VmHWM), beside the predicted peak of
host memory. The difference is the Python with its modules, Caffe and its libraries, the work
buffers of the BLAS, pages of an LMDB that are mapped, and what the C library's allocator rounds up
or keeps; pages that Caffe asks for and never writes to make it smaller. A snapshot copies all
parameters and the solver's state, which is in the last column.

A second table is of a process that has only imported caffe, and of one that has multiplied two
matrices: what no net can avoid.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch import runtimes
from caffe_batch.memory.ledger import Part
from caffe_batch.memory.predict import predict
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training import Options, train
from tests.planned_jobs import NET, attempts_of, write_job, write_lmdb

#: Prints the largest resident set in KiB after importing caffe, and after a product of matrices.
BARE = """
import re
def peak():
    return re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)
import caffe
first = peak()
import numpy
ones = numpy.ones((64, 64), "f")
ones.dot(ones)
print(first, peak())
"""

#: A convolutional net over DummyData: (channels, side, convolutions, outputs).
CONVOLUTIONS = {
    "convolutions 32x32": (3, 32, (16, 32), 10),
    "convolutions 128x128": (3, 128, (16, 32, 64), 100),
    "convolutions 224x224": (3, 224, (32, 64, 64, 64), 1000),
}


def convolutional(kind: str, batch: int) -> str:
    """The text of a net of :data:`CONVOLUTIONS`."""
    channels, side, widths, classes = CONVOLUTIONS[kind]
    layers = [
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {'
        f" shape {{ dim: {batch} dim: {channels} dim: {side} dim: {side} }}"
        f" shape {{ dim: {batch} }}"
        ' data_filler { type: "gaussian" } data_filler { type: "constant" } } }'
    ]
    blob = "data"
    for number, width in enumerate(widths):
        layers.append(
            f'layer {{ name: "conv{number}" type: "Convolution" bottom: "{blob}" '
            f'top: "conv{number}" convolution_param {{ num_output: {width} kernel_size: 3 '
            f'stride: 2 weight_filler {{ type: "xavier" }} }} }}'
            f'layer {{ name: "relu{number}" type: "ReLU" bottom: "conv{number}" '
            f'top: "conv{number}" }}'
        )
        blob = f"conv{number}"
    layers.append(
        f'layer {{ name: "ip" type: "InnerProduct" bottom: "{blob}" top: "ip" '
        f'inner_product_param {{ num_output: {classes} weight_filler {{ type: "xavier" }} }} }}'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    )
    return "\n".join(layers)


def measure(runtime: Runtime, text: str, threads: int, **fields: Any) -> dict[str, int]:
    """Trains a net for a few updates.

    Returns:
        Bytes: the predicted peak, the largest resident set, their difference, and what a snapshot
        copies.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), net=text, iter_size=2, **{"max_iter": 6, **fields})
        found = predict(job.net, job.solver, mode="cpu")
        copies = found.parts[Part.PARAMETERS] // 2 + found.parts[Part.SOLVER_STATE]
        train(job, runtime, Options(threads=threads))
        seen = attempts_of(job)[-1].seen_bytes
    if seen is None:
        sys.exit("the worker was gone before its memory was read: it needs more updates")
    predicted = found.allocated_bytes
    return {
        "predicted_bytes": predicted,
        "resident_bytes": seen,
        "beside_bytes": seen - predicted,
        "copies_bytes": copies,
    }


def bare(runtime: Runtime) -> dict[str, int]:
    """The largest resident set of a process that computes nothing, in bytes."""
    done = subprocess.run(
        runtime.command(["-c", BARE]),
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    imported, multiplied = (1024 * int(word) for word in done.stdout.split())
    return {"caffe imported": imported, "a product of matrices": multiplied}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", help="as for caffe-batch train")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    runtime = runtimes.find(options.runtime)
    info = runtimes.inspect(runtime)
    rows: dict[str, dict[str, int]] = {}
    untested = {"test_iter": None, "test_interval": None}
    for kind in CONVOLUTIONS:
        for batch in (4, 32):
            name = f"{kind}, batch {batch}"
            rows[name] = measure(runtime, convolutional(kind, batch), 1, **untested)
    text = convolutional("convolutions 224x224", 4)
    rows["the same, batch 4, Adam"] = measure(runtime, text, 1, type='"Adam"', **untested)
    kept = {**untested, "snapshot_after_train": "false"}
    rows["the same, batch 4, no snapshots"] = measure(runtime, text, 1, **kept)
    name = "convolutions 128x128, batch 32, 2 threads"
    rows[name] = measure(runtime, convolutional("convolutions 128x128", 32), 2, **untested)
    with tempfile.TemporaryDirectory() as folder:
        data = write_lmdb(Path(folder) / "data")
        for width in (1_000, 100_000):
            text = NET.format(data=data, batch_size=6, width=width)
            rows[f"LMDB, {width:,} neurons, a test net"] = measure(
                runtime, text, 1, max_iter=20_000_000 // width
            )
    fixed = bare(runtime)
    for name, size in fixed.items():
        print(f"{name:<44}{'':>10}{size / 2**20:>10.1f}")
    print(f"{'MiB':<44}{'predicted':>10}{'resident':>10}{'beside':>10}{'copies':>10}")
    for name, row in rows.items():
        print(f"{name:<44}" + "".join(f"{size / 2**20:>10.1f}" for size in row.values()))
    if options.json:
        content = {
            "caffe": info.engine_version,
            "python": info.python_version,
            "numpy": info.numpy_version,
            "without_a_net_bytes": fixed,
            "trainings": rows,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
