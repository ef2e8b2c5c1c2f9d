"""Measures on a machine with an NVIDIA GPU what can't be measured without one; started by run.sh.

Each part writes OUT/GPU/PART.json when it finishes, where GPU is the name of the GPU. A part that
fails doesn't stop the others, but the exit status is then 1; it is 2 if nothing can be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.gpu import demo, fit, layers, memory, speed
from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.facts import facts, missing, slug
from caffe_batch import runtimes
from caffe_batch.errors import CaffeBatchError

PARTS = {module.PART.name: module.PART for module in (layers, memory, fit, demo, speed)}
RESULTS = Path(__file__).parents[1] / "results"


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, as given to run.sh."""
    parser = argparse.ArgumentParser(prog="run.sh", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", metavar="PART", action="append", choices=PARTS,
                        help=f"one of {', '.join(PARTS)}; may be repeated")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer nets and sizes")
    parser.add_argument("--dry-run", action="store_true",
                        help="say what would be measured; touches no GPU")  # fmt: skip
    parser.add_argument("--runtime", metavar="PYTHON",
                        help="a Python that imports a GPU build of Caffe (default: as for"
                        " caffe-batch)")  # fmt: skip
    parser.add_argument("--cpu-runtime", metavar="PYTHON",
                        help="the CPU build that the layers are compared with (default: the GPU"
                        " build in CPU mode)")  # fmt: skip
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="which GPU (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR",
                        help="where the results go (default: benchmarks/results)")  # fmt: skip
    return parser.parse_args(arguments)


def say_plan(parts: Sequence[Part], quick: bool) -> None:
    """Prints what would be measured, and roughly how long it takes."""
    for part in parts:
        print(f"{part.name}: {part.about} (about {part.minutes[quick]:g} min)")
        for line in part.lines(quick):
            print(f"  {line}")
    print(f"about {sum(part.minutes[quick] for part in parts):g} minutes in all")


def run_part(part: Part, bench: Bench) -> dict[str, Any]:
    """The result of a part or, if it fails, the error."""
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = part.measure(bench, Path(folder))
    except Exception as error:
        traceback.print_exc()
        found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
    seconds = round(time.perf_counter() - start, 1)
    return {"part": part.name, "about": part.about, "seconds": seconds, **found}


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes a result, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the parts that were asked for."""
    options = read_options(arguments)
    parts = [PARTS[name] for name in dict.fromkeys(options.only or PARTS)]
    if options.dry_run:
        say_plan(parts, options.quick)
        return 0
    try:
        runtime = runtimes.find(options.runtime)
        reference = runtimes.find(options.cpu_runtime) if options.cpu_runtime else None
    except CaffeBatchError as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 2
    lacks = list(missing(runtime, options.gpu))
    for lack in lacks:
        print(f"run.sh: {lack}", file=sys.stderr)
    if lacks:
        return 2
    bench = Bench(runtime, reference, options.gpu, options.quick)
    about = facts(bench)
    folder = options.out / slug(about["gpu"])
    write(folder / "machine.json", about)  # fails before hours are spent
    failed = []
    for part in parts:
        print(f"== {part.name}: {part.about}", flush=True)
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        result = run_part(part, bench)
        write(folder / f"{part.name}.json", {"date": date, "machine": about, **result})
        print(f"   {'passed' if result['passed'] else 'FAILED'}: {folder / part.name}.json")
        if not result["passed"]:
            failed.append(part.name)
    if failed:
        print(f"run.sh: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
