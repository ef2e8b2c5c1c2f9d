"""Trains the handwritten digits on the GPU, through the program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.program import ROOT, caffe_batch
from tools.demo import BUDGET, DEMO, SOLVER

#: Required accuracy on the test digits: normally, and after a tenth of the epochs (--quick).
ACCURACY, QUICK_ACCURACY = 0.97, 0.85
QUICK_EPOCHS = "7"


def place_digits(folder: Path) -> None:
    """The digits' two databases: those of ``make demo``, else new ones made with scikit-learn.

    Raises:
        RuntimeError: There are none, and scikit-learn isn't installed.
    """
    for database in DEMO.glob("digits_*_lmdb"):
        shutil.copytree(database, folder / database.name)
    tool = ROOT / "tools" / "digits.py"
    done = subprocess.run([sys.executable, tool, folder], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(
            f"the digits can't be made: {''.join(said)}; make them first where scikit-learn is:"
            " python tools/digits.py demo"
        )


def lines(quick: bool) -> list[str]:
    """What would be measured."""
    epochs = f" for {QUICK_EPOCHS} epochs" if quick else ""
    return [f"the digits, effective batch 256 under {BUDGET}, trained by caffe-batch{epochs}"]


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Plans as ``make demo`` does, trains, and reads the results from the job."""
    place_digits(folder)
    shorter = ["--epochs", QUICK_EPOCHS] if bench.quick else []
    caffe_batch(
        folder, "plan", str(SOLVER), "--effective-batch", "256", "--gpu-memory", BUDGET,
        "--reserve", "0", "--out", "job", *shorter,
    )  # fmt: skip
    device = ["--cpu"] if bench.mode == "cpu" else ["--gpu", str(bench.gpu)]
    start = time.perf_counter()
    caffe_batch(folder, "train", "job", *device, runtime=bench.runtime.name)
    seconds = time.perf_counter() - start
    record = json.loads((folder / "job" / "job.json").read_text())
    plan = json.loads((folder / "job" / "plan.json").read_text())
    metrics = map(json.loads, (folder / "job" / "metrics.jsonl").read_text().splitlines())
    accuracy = [each["value"] for each in metrics if each.get("output") == "accuracy"][-1]
    trained_on = record["attempts"][-1]["device"]
    right_place = (trained_on == "CPU") == (bench.mode == "cpu")
    return {
        "passed": right_place and accuracy >= (QUICK_ACCURACY if bench.quick else ACCURACY),
        "device": trained_on,
        "accuracy": accuracy,
        "state": record["state"],
        "batch_size": plan["batch_size"],
        "iter_size": plan["iter_size"],
        "attempts": len(record["attempts"]),
        "seconds": round(seconds, 2),
    }


PART = Part("demo", "the digits demo, trained on the GPU", (1, 0.5), lines, measure)
