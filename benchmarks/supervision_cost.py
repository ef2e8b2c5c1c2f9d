"""What supervision costs, beside the bare ``caffe train`` binary of the same runtime.

    python benchmarks/supervision_cost.py [--turns N] [--caffe FILE] [--json FILE]

Trains the same solver with both, by turns: nets with very short updates (of one micro-batch, and
of four) and with long ones. From Caffe's own log, which both write: the time from one displayed
update to the next (about half a second, so that it has its share of what is reported now and then),
and from the start of the process to the first. The best of all counts, which other work on the
machine disturbs least.

The binary is downloaded with apt, as the runtime was; --caffe gives one that is there already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch import runtimes
from caffe_batch.runtimes import apt, debian, host, installation
from caffe_batch.training.job import JobDirectory
from tests.planned_jobs import write_job

ROOT = Path(__file__).resolve().parent.parent

#: Debian's package with the binary.
PACKAGE = "caffe"

#: Width of the hidden layer, micro-batches of an update, updates, of them from one displayed to the
#: next.
CASES = {
    "very short updates": (700, 1, 100_000, 5_000),
    "four very short micro-batches": (700, 4, 24_000, 1_200),
    "long updates": (60_000, 1, 600, 50),
}

DISPLAYED = re.compile(
    r"I(\d{4})?(\d{4} \d{2}:\d{2}:\d{2}\.\d+)\s+\d+ solver\.cpp:\d+\] Iteration \d+ \(.*"
)


@dataclass(frozen=True)
class Run:
    """Seconds from the start of the process to the first update, and of each interval."""

    start_s: float
    intervals_s: tuple[float, ...]


def read_log(log: str, spawned: float) -> Run:
    """The times of Caffe's log, of which some versions write no year."""
    year = datetime.now().year
    times = [
        datetime.strptime(f"{match[1] or year}{match[2]}", "%Y%m%d %H:%M:%S.%f").timestamp()
        for line in log.splitlines()
        if (match := DISPLAYED.fullmatch(line))
    ]
    return Run(times[0] - spawned, tuple(b - a for a, b in itertools.pairwise(times)))


def get_binary(folder: Path) -> Path:
    """Debian's ``caffe``, downloaded into a folder; its libraries are the runtime's."""
    architecture = installation.this_architecture()
    archive = apt.Archive(host.host_mirror(), debian.SUITE, architecture.debian)
    state, root = folder / "apt", folder / "root"
    state.mkdir()
    root.mkdir()
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)

    def silent(stage: str, share: float) -> None:
        pass

    packages = apt.download(archive, [PACKAGE], state, lock, silent)
    own = [package for package in packages if package.name.startswith(f"{PACKAGE}_")]
    installation.unpack(own, root, lock, silent)
    os.close(lock)
    return root / "usr" / "bin" / "caffe"


def bare(command: Sequence[str], runtime: runtimes.Runtime, job: JobDirectory) -> Run:
    """The binary; its libraries are found as those of the runtime's Python are."""
    spawned = time.time()
    done = subprocess.run(
        [*command, "train", f"--solver={job.solver}"],
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return read_log(done.stderr, spawned)


def supervised(job: JobDirectory) -> Run:
    """``caffe-batch train`` as people start it."""
    spawned = time.time()
    subprocess.run(
        [sys.executable, "-m", "caffe_batch", "train", str(job.path), "--restart"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return read_log(job.log.read_text(), spawned)


def measure(
    case: tuple[int, int, int, int], command: Sequence[str], runtime: runtimes.Runtime, turns: int
) -> dict[str, float]:
    """The figures of a case."""
    width, iter_size, updates, display = case
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(
            Path(folder), width=width, max_iter=updates, iter_size=iter_size, display=display,
            test_interval=10**9, test_initialization="false", solver_mode="CPU",
        )  # fmt: skip
        job.snapshots.mkdir()
        runs = [(bare(command, runtime, job), supervised(job)) for _ in range(turns)]
    alone, under = (
        min(second for run in column for second in run.intervals_s) / display
        for column in zip(*runs, strict=True)
    )
    start, later = (min(run.start_s for run in column) for column in zip(*runs, strict=True))
    return {
        "bare_us": 1e6 * alone,
        "supervised_us": 1e6 * under,
        "throughput": alone / under,
        "bare_start_s": start,
        "supervised_start_s": later,
    }


def main() -> None:
    """Measure all cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--caffe", type=Path, help="the binary")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    runtime = runtimes.find()
    python = runtime.command([])
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        binary = options.caffe or get_binary(Path(folder))
        for name, case in CASES.items():
            found = measure(case, [*python[:-1], str(binary)], runtime, options.turns)
            figures[name] = {key: round(value, 4) for key, value in found.items()}
            print(
                f"{name}: {found['bare_us']:,.1f} us bare, {found['supervised_us']:,.1f} us "
                f"supervised, throughput {found['throughput']:.3f} of the bare binary's; the first "
                f"after {found['bare_start_s']:.2f} s and {found['supervised_start_s']:.2f} s"
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
