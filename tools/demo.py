"""`make demo`: the whole program at work, on the handwritten digits.

    python tools/demo.py [caffe|pytorch]

Writes the data as LMDB, plans the LeNet-style net of prototxt/digits at an effective batch of 256
under a budget too small for it, trains the plan, and shows the result. Existing data and plans are
reused. Real pycaffe trains it, or PyTorch (`make demo ENGINE=pytorch`); where no pycaffe can be
installed, PyTorch takes its place.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
SOLVER = ROOT / "prototxt" / "digits" / "solver.prototxt"

#: Exit codes that don't mean that no pycaffe can be had: wrong usage, an interrupt.
NO_ANSWER = (2, 130)

#: Enough for batch_size 64 but not for 128: the recipe's 256 becomes 64 x 4.
BUDGET = "5MiB"


def step(title: str, command: list[str]) -> None:
    """Announces a command, runs it in demo/, and ends the demo if it fails."""
    print(f"\n== {title}\n$ {' '.join(command)}", flush=True)
    done = subprocess.run([sys.executable, *arguments(command)], cwd=DEMO)
    if done.returncode:
        sys.exit(done.returncode)


def arguments(command: list[str]) -> list[str]:
    """The command as arguments for this Python, whose environment has the program."""
    if command[0] == "caffe-batch":
        return ["-m", "caffe_batch", *command[1:]]
    return command[1:]


def find_engine(asked: str) -> str:
    """The engine of the demo: the one asked for, else Caffe if it can be installed.

    It exits where PyTorch is missing.
    """
    if asked != "pytorch":
        command = ["caffe-batch", "runtime", "install"]
        done = subprocess.run([sys.executable, *arguments(command)], cwd=DEMO)
        if not done.returncode:
            return "caffe"
        if asked or done.returncode in NO_ANSWER:
            sys.exit(done.returncode)
        print("\nNo pycaffe can be installed here: PyTorch trains instead.", flush=True)
    if importlib.util.find_spec("torch") is None:
        sys.exit("demo: PyTorch is missing; `pip install 'caffe-batch[torch]'` installs it")
    return "pytorch"


def main() -> int:
    DEMO.mkdir(exist_ok=True)
    engine = find_engine("".join(sys.argv[1:2]))
    job = DEMO / ("job" if engine == "caffe" else f"job-{engine}")
    digits = ROOT / "tools" / "digits.py"
    step("The data: 1,797 handwritten digits as LMDB", ["python", str(digits), "."])
    if not (job / "plan.json").exists():
        step(
            f"The plan: an effective batch of 256 in {BUDGET}",
            ["caffe-batch", "plan", str(SOLVER), "--effective-batch", "256",
             "--gpu-memory", BUDGET, "--reserve", "0", "--engine", engine, "--out", job.name],
        )  # fmt: skip
    step("The training", ["caffe-batch", "train", job.name])
    plan = json.loads((job / "plan.json").read_text())
    if plan["iter_size"] < 4:
        print(f"demo: iter_size {plan['iter_size']} instead of 4 or more", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
