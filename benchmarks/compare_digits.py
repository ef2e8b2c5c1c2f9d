"""The comparison of docs/small-batches.md: every way to train the digits with a small batch.

    python benchmarks/compare_digits.py [FOLDER]

Trains the net of prototxt/digits on real Caffe, in FOLDER (demo/compare if none is given), with 5
seeds for each way: about 5 minutes on two cores. Called again, it continues where it was. Writes
benchmarks/results/compare_digits*.json and docs/images/compare-digits.png.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: 20 epochs of 22.5 updates of 64 samples. The rate is that of prototxt/digits, where it belongs
#: to 256 samples per update.
SOLVER = """\
net: "net.prototxt"
type: "SGD"
base_lr: 0.05
momentum: 0.9
weight_decay: 0.0005
lr_policy: "multistep"
gamma: 0.1
stepvalue: 270  # epoch 12
stepvalue: 360  # epoch 16
max_iter: 450   # updates of 64 samples: 20 epochs
test_iter: 3
test_interval: 15
test_initialization: false
snapshot: 450
"""

BATCH = 64

#: Memory for Caffe's own requests: enough for 8 samples in one pass, but not for 16.
MEMORY = "1400KiB"


#: Rates at which the recipe alone was tried, to see how far the chosen one is from diverging.
RATES = (0.05, 0.1, 0.2, 0.4)


#: Two trainings at once, on the CPU.
TWO = ("--jobs", "2", "--cpu")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo" / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "prototxt" / "digits" / "net.prototxt", folder)
    subprocess.run([sys.executable, str(ROOT / "tools" / "digits.py"), "."], cwd=folder, check=True)
    call(folder, "strategies", SOLVER)
    call(folder, "compare", SOLVER, "--seeds", "5", "--out", "run", *TWO)
    rates = {}
    for rate in RATES:
        solver = SOLVER.replace("base_lr: 0.05", f"base_lr: {rate}")
        out = f"rate-{rate}"
        call(
            folder,
            "compare",
            solver,
            "--strategy",
            "accumulate",
            "--seeds",
            "2",
            "--out",
            out,
            *TWO,
        )
        (way,) = json.loads((folder / out / "compare.json").read_text())["strategies"]
        rates[rate] = {"score": way["score"], "loss": way["loss"]}
    results = ROOT / "benchmarks" / "results"
    shutil.copy(folder / "run" / "compare.json", results / "compare_digits.json")
    (results / "compare_digits_rates.json").write_text(json.dumps(rates, indent=2) + "\n")
    shutil.copy(folder / "run" / "compare.png", ROOT / "docs" / "images" / "compare-digits.png")


def call(folder: Path, command: str, solver: str, *options: str) -> None:
    """Runs a command of the program on this solver, in the folder."""
    (folder / "solver.prototxt").write_text(solver)
    recipe = [
        "solver.prototxt", "--effective-batch", str(BATCH), "--recipe-batch", str(BATCH),
        "--gpu-memory", MEMORY, "--reserve", "0",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "caffe_batch", command, *recipe, *options], cwd=folder, check=True
    )


if __name__ == "__main__":
    main()
