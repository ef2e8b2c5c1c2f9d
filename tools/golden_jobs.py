"""Makes job directories with the current program, for later versions to read and resume.

    tools/golden_jobs.py FOLDER

Each job trains a tiny net on real Caffe. FOLDER/NAME is a job, without its data, which
``tests.planned_jobs.write_lmdb`` can make again. Jobs made in ``/golden`` are committed in
``tests/data/golden/VERSION``: like those of a job that was moved, their files name paths that don't
exist.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from caffe_batch import runtimes
from tests.planned_jobs import NET, write_lmdb

PROGRAM = [sys.executable, "-m", "caffe_batch"]

#: Takes memory and time without learning anything: 140 bytes per sample and tile.
WIDE = """
layer {{ name: "tile" type: "Tile" bottom: "data" top: "wide" include {{ phase: TRAIN }}
  tile_param {{ axis: 1 tiles: {tiles} }} }}
layer {{ name: "away" type: "Silence" bottom: "wide" include {{ phase: TRAIN }} }}
"""

SOLVER = """\
net: "net.prototxt"
base_lr: 0.05
lr_policy: "multistep"
gamma: 0.5
stepvalue: 80
stepvalue: 120
momentum: 0.9
max_iter: 160
test_iter: 7
test_interval: 40
snapshot: 50
random_seed: 1
"""

#: Options of ``plan`` besides the solver, tiles of the net, and the update after which the run is
#: interrupted.
JOBS: dict[str, tuple[list[str], int, int | None]] = {
    "finished": (["--effective-batch", "12", "--batch-size", "4"], 8000, None),
    "interrupted": (["--effective-batch", "12", "--batch-size", "4"], 8000, 60),
    "growing": (["--effective-batch", "4", "--schedule", "grow", "--max-batch", "24"], 60_000, 245),
    "resplit": (["--effective-batch", "60", "--recipe-batch", "60"], 60_000, 20),
}


def last_update(job: Path) -> int:
    """The last update in metrics.jsonl."""
    file = job / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line).get("update", 0) for line in lines), default=0)


def address_space() -> int:
    """The address space of a worker before any net is built, in KiB."""
    code = (
        "import caffe, re; "
        r"print(re.findall(r'VmPeak:\s+(\d+)', open('/proc/self/status').read())[0])"
    )
    runtime = runtimes.find()
    done = subprocess.run(
        runtime.command(["-c", code]),
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    return int(done.stdout)


def make(folder: Path, name: str) -> None:
    """Plans and trains one job."""
    options, tiles, interrupted = JOBS[name]
    job, source = folder / name, folder / f"{name}.source"
    source.mkdir(parents=True)
    write_lmdb(source / "data")
    net = (NET + WIDE).format(data="data", batch_size=12, width=8, tiles=tiles)
    (source / "net.prototxt").write_text(net)
    (source / "solver.prototxt").write_text(SOLVER)
    command = [*PROGRAM, "plan", "solver.prototxt", "--mode", "cpu", "--gpu-memory", "4GiB"]
    subprocess.run([*command, *options, "--out", str(job)], cwd=source, check=True)
    train: list[str] = [*PROGRAM, "train", str(job), "--quiet"]
    if name == "resplit":
        limit = address_space() + 300 * 1024
        train = ["sh", "-c", f'ulimit -v {limit} && exec "$@"', "sh", *train]
    with subprocess.Popen(train, cwd=source) as running:
        while running.poll() is None and interrupted is not None:
            if last_update(job) >= interrupted:
                running.send_signal(signal.SIGINT)
                break
            time.sleep(0.001)
    print(f"{name}: exit code {running.returncode} at update {last_update(job)}")
    shutil.rmtree(source)
    shutil.rmtree(job / ".worker", ignore_errors=True)
    (job / "loss.png").unlink(missing_ok=True)


def main(folder: Path) -> None:
    for name in JOBS:
        make(folder, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
