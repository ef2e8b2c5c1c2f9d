"""Runs all layer types forward and backward on the GPU and on the CPU, and compares the results."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.layer_cases import LEFT_OUT, NOT_COMPARED, LayerCase, cases
from caffe_batch.layers.base import Mode
from caffe_batch.runtimes import Runtime, inspect

WORKER = Path(__file__).with_name("layers_worker.py")

#: The largest relative error that counts as equal.
TOLERANCE = 1e-4

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case: its arrays, or None and the end of Caffe's log."""

    arrays: Arrays | None
    log: str


def run_cases(
    chosen: Sequence[LayerCase],
    runtime: Runtime,
    environment: dict[str, str],
    mode: Mode,
    folder: Path,
) -> list[Outcome]:
    """Runs the cases in a runtime.

    Args:
        chosen: The cases.
        runtime: Where to run them.
        environment: The environment of its process.
        mode: ``cpu`` or ``gpu``.
        folder: A new folder for the results.
    """
    folder.mkdir()
    listed = folder / "cases.json"
    listed.write_text(json.dumps([case.json() for case in chosen]))
    command = runtime.command([str(WORKER), str(listed), mode, str(folder)])
    subprocess.run(command, env=environment, check=True)
    return [_outcome(folder, number) for number in range(len(chosen))]


def _outcome(folder: Path, number: int) -> Outcome:
    path, log = folder / f"{number}.npz", folder / f"{number}.log"
    text = log.read_text(errors="replace") if log.exists() else "the worker ended before it\n"
    fatal = [line for line in text.splitlines() if line.startswith("F")] or text.splitlines()[-1:]
    if not path.exists():
        return Outcome(None, "\n".join(fatal))
    with np.load(path) as file:
        return Outcome({name: file[name] for name in file.files}, "")


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """L2 norm of the difference over that of the expected array; infinite if not finite.

    >>> relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.1
    >>> relative_error(np.zeros(2), np.zeros(2)), relative_error(np.ones(2), np.zeros(2))
    (0.0, inf)
    """
    if found.shape != expected.shape:
        return math.inf
    whole = np.asarray(expected, np.float64)
    difference = float(np.linalg.norm(np.asarray(found, np.float64) - whole))
    if difference == 0:
        return 0.0
    size = float(np.linalg.norm(whole))
    error = difference / size if size else math.inf
    return error if math.isfinite(error) else math.inf


def compare(case: LayerCase, found: Outcome, expected: Outcome) -> dict[str, Any]:
    """A row of the results: the error of each array of a case, null if it is infinite."""
    row: dict[str, Any] = {"case": case.name, "type": case.type, "equal": False}
    if found.arrays is None or expected.arrays is None:
        return {**row, "log": found.log or expected.log}
    if found.arrays.keys() != expected.arrays.keys():
        return {**row, "log": f"{[*found.arrays]} instead of {[*expected.arrays]}"}
    errors = {
        name: relative_error(array, expected.arrays[name]) for name, array in found.arrays.items()
    }
    row["equal"] = all(error <= TOLERANCE for error in errors.values())
    shown = {name: error if math.isfinite(error) else None for name, error in errors.items()}
    return {**row, "errors": shown}


def lines(quick: bool) -> list[str]:
    """What would be measured; ``quick`` leaves nothing out."""
    return [case.name for case in cases()] + [
        f"not compared: {kind}: {why}" for kind, why in sorted({**NOT_COMPARED, **LEFT_OUT}.items())
    ]


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Compares all cases; fails also if Caffe has a layer type that isn't listed here."""
    chosen = list(cases())
    reference = bench.cpu_runtime or bench.runtime
    expected = run_cases(chosen, reference, reference.environment(), "cpu", folder / "cpu")
    found = run_cases(chosen, bench.runtime, bench.environment(), bench.mode, folder / "gpu")
    rows = [compare(*each) for each in zip(chosen, found, expected, strict=True)]
    known = {case.type for case in chosen} | NOT_COMPARED.keys()
    forgotten = sorted(set(inspect(bench.runtime).layer_types) - known)
    return {
        "passed": all(row["equal"] for row in rows) and not forgotten,
        "tolerance": TOLERANCE,
        "compared_with": "a CPU build" if bench.cpu_runtime else "the GPU build in CPU mode",
        "unknown_types": forgotten,
        "not_compared": NOT_COMPARED,
        "left_out": LEFT_OUT,
        "cases": rows,
    }


PART = Part(
    "layers",
    "all layer types, forward and backward, on the GPU and the CPU",
    (4, 4),
    lines,
    measure,
)
