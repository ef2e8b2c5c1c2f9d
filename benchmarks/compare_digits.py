"""The comparison of docs/small-batches.md: every way to train the digits with a small batch.

    python benchmarks/compare_digits.py [FOLDER]

Trains the net of prototxt/digits on real Caffe, in FOLDER (demo/compare if none is given), with 5
seeds for each way: some 4 minutes on two cores. Called again it goes on where it was. Writes
benchmarks/results/compare_digits.json and docs/images/compare-digits.png.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: 20 epochs of 22.5 updates of 64 samples. The rate is that of prototxt/digits, where it goes with
#: 256 samples an update.
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

#: Of Caffe's own requests: holds 8 samples in one pass, but not 16.
MEMORY = "1400KiB"


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo" / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "prototxt" / "digits" / "net.prototxt", folder)
    (folder / "solver.prototxt").write_text(SOLVER)
    program = [sys.executable, "-m", "caffe_batch"]
    recipe = [
        "solver.prototxt", "--effective-batch", str(BATCH), "--recipe-batch", str(BATCH),
        "--gpu-memory", MEMORY, "--reserve", "0",
    ]  # fmt: skip
    for command in (
        [sys.executable, str(ROOT / "tools" / "digits.py"), "."],
        [*program, "strategies", *recipe],
        [*program, "compare", *recipe, "--seeds", "5", "--jobs", "2", "--cpu", "--out", "run"],
    ):
        done = subprocess.run(command, cwd=folder)
        if done.returncode:
            return done.returncode
    results = folder / "run"
    shutil.copy(results / "compare.json", ROOT / "benchmarks" / "results" / "compare_digits.json")
    shutil.copy(results / "compare.png", ROOT / "docs" / "images" / "compare-digits.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
