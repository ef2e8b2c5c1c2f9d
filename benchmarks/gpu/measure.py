"""Measures on a real GPU what can't be measured elsewhere; run.sh finds the Python for it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.parts import PARTS, ROOT, Setting, describe
from caffe_batch import __version__, runtimes
from caffe_batch.errors import CaffeBatchError
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.machine import gpus

RESULTS = ROOT / "benchmarks" / "results"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="run.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=list(PARTS),
        metavar="PART",
        help=f"measure this part only; may be repeated: {', '.join(PARTS)}",
    )
    parser.add_argument("--runtime", metavar="PYTHON", help="a Python with Caffe's GPU build")
    parser.add_argument(
        "--cpu-runtime",
        metavar="PYTHON",
        help="a Python with a CPU build, to compare the layers with",
    )
    parser.add_argument("--gpu", type=int, default=0, metavar="ID", help="number of the GPU")
    parser.add_argument("--quick", action="store_true", help="fewer nets and batch sizes")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="where the JSON files go")  # fmt: skip
    return parser.parse_args(arguments)


def obstacle(info: Any, found: Any, gpu: int) -> str | None:
    """Why nothing can be measured here; None if it can."""
    if not info.gpu:
        return f"the Caffe of {info.caffe_path} has no GPU code: give --runtime, or use the image"
    if found.source is None or not found.devices:
        return f"no GPU is seen: {found.problem or 'NVML knows none'}"
    if gpu >= len(found.devices):
        return f"there is no GPU {gpu}: {len(found.devices)} are seen"
    if info.gpu_problem:
        return f"Caffe can't use the GPU: {info.gpu_problem}"
    return None


def environment(info: Any, found: Any, gpu: int) -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "gpu": found.devices[gpu].name,
        "gpu_bytes": found.devices[gpu].total_bytes,
        "driver": found.driver,
        "caffe": info.caffe_version,
        "python": info.python_version,
        "caffe_batch": __version__,
    }


def measure(
    names: Sequence[str],
    parts: Mapping[str, Callable[[Setting, Path], dict[str, Any]]],
    setting: Setting,
    where: Mapping[str, Any],
    out: Path,
) -> bool:
    """Measure each part and write ``gpu_PART.json``; whether all was as it should be.

    A part that fails doesn't stop the others; no file is written for it.
    """
    out.mkdir(parents=True, exist_ok=True)
    fine = True
    for name in names:
        print(f"== {name}", flush=True)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found = parts[name](setting, Path(scratch))
        except Exception:  # whatever it is, the other parts have their turn
            traceback.print_exc()
            fine = False
            continue
        fine = fine and bool(found["held"])
        file = out / f"gpu_{name}.json"
        file.write_text(json.dumps({**found, "environment": dict(where)}, indent=1) + "\n")
        print(
            f"{'as it should be' if found['held'] else 'NOT as it should be'}: {file}", flush=True
        )
    return fine


def main(arguments: Sequence[str]) -> int:
    """Measures what was asked for; 1 if something failed, 2 if nothing can be measured."""
    options = parse(arguments)
    names = options.only or list(PARTS)
    try:
        runtime = runtimes.find(options.runtime)
        cpu = runtimes.find(options.cpu_runtime) if options.cpu_runtime else None
        setting = Setting(runtime, cpu, options.gpu, options.quick)
        if options.dry_run:
            print("\n".join(describe(setting, names)))
            return 0
        info = inspect(runtime)
    except CaffeBatchError as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 2
    found = gpus()
    problem = obstacle(info, found, options.gpu)
    if problem:
        print(f"run.sh: {problem}", file=sys.stderr)
        return 2
    where = environment(info, found, options.gpu)
    return 0 if measure(names, PARTS, setting, where, options.out) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
