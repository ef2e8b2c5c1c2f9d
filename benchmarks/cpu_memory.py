"""Compares the prediction for CPU mode with the host memory that real Caffe takes, for large nets.

    python benchmarks/cpu_memory.py [NAME...]

Trains every net of tests/memory/cpu_nets.py (or those whose names contain a NAME) for two updates,
twice: once to count what Caffe asks the allocator for, if there is a C compiler, and once to see
what becomes resident. Prints a table, and writes results/cpu_memory.json if all nets ran. Takes
about ten minutes and 4 GB.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch import runtimes
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from tests.memory.cpu_nets import NETS, CpuNet
from tests.memory.host_memory import build_counter, count, weigh

RESULTS = Path(__file__).parent / "results" / "cpu_memory.json"
COLUMNS = "{:36} {:>10} {:>10} {:>9} {:>10} {:>7} {:>7}"


def measured(
    net: CpuNet, folder: Path, runtime: runtimes.Runtime, counter: Path | None
) -> dict[str, Any]:
    """Predicts and measures a net's memory, in bytes."""
    net.write(folder)
    model = CaffeMemory(read_recipe(folder / "solver.prototxt"), Sources((folder,)), "cpu")
    predicted = model.at().after_two_updates_bytes
    resident = weigh([folder], runtime)[0]
    counted = count([folder], runtime, counter)[0] if counter else None
    if resident is None or (counter and counted is None):
        sys.exit(f"Caffe aborted on the net in {folder}")
    return {
        "predicted": predicted,
        "counted": counted and counted.peak,
        "predicted_by_counted": counted and round(predicted / counted.peak, 6),
        "resident": resident.peak,
        "predicted_by_resident": round(predicted / resident.peak, 4),
        "mapped_files": resident.files,
    }


def main() -> None:
    """Measures the nets that were asked for."""
    names = [
        name for name in NETS if not sys.argv[1:] or any(part in name for part in sys.argv[1:])
    ]
    runtime = runtimes.find()
    print("MB, and predicted / measured")
    print(COLUMNS.format("", "predicted", "counted", "ratio", "resident", "ratio", "files"))
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        counter = build_counter(Path(scratch))
        for number, name in enumerate(names):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                found = measured(NETS[name], Path(folder) / str(number), runtime, counter)
            results[name] = found
            sizes = [found[key] for key in ("predicted", "counted", "resident", "mapped_files")]
            predicted, counted, resident, files = (f"{(size or 0) / 1e6:,.1f}" for size in sizes)
            exact, close = found["predicted_by_counted"] or 0, found["predicted_by_resident"]
            cells = (predicted, counted, f"{exact:.6f}", resident, f"{close:.4f}", files)
            print(COLUMNS.format(name, *cells), flush=True)
    if len(names) == len(NETS):
        about = "bytes after two updates in CPU mode; made by benchmarks/cpu_memory.py"
        caffe = runtimes.inspect(runtime).engine_version
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps({"about": about, "caffe": caffe, "nets": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
