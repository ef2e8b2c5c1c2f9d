"""What supervision costs, compared with the bare ``caffe train`` binary of the same runtime.

    python benchmarks/supervision_cost.py [--turns N] [--caffe FILE] [--json FILE]

Trains the same solver with both, alternately: nets with very short updates (of one micro-batch, and
of four) and with long ones. Measured from one update displayed in Caffe's log to the next (about
half a second, long enough to include what is reported from time to time): wall-clock time, and the
time that Caffe's main thread spent on a processor, which other load on the machine disturbs less.
The best interval counts. Also measured: the time from the start of the process to the first
update.

The binary is downloaded with apt, like the runtime; --caffe names one that already exists.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from caffe_batch import runtimes
from caffe_batch.engines.caffe.log_lines import read_glog_line
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.runtimes import apt, debian, host, installation
from tests.planned_jobs import write_job

ROOT = Path(__file__).resolve().parent.parent

#: Debian's package with the binary.
PACKAGE = "caffe"

#: Width of the hidden layer, micro-batches per update, updates, and updates from one displayed to
#: the next.
CASES = {
    "very short updates": (700, 1, 100_000, 5_000),
    "four very short micro-batches": (700, 4, 24_000, 1_200),
    "long updates": (60_000, 1, 600, 50),
}

DISPLAYED = re.compile(r"Iteration \d+ \(.*")


@dataclass(frozen=True)
class Run:
    """Seconds to the first update; and of each interval, on the clock and on a processor."""

    start_s: float
    clock_s: tuple[float, ...]
    thread_s: tuple[float, ...]


class MainThread:
    """Tracks the processor time of a process's main thread.

    Args:
        find: Returns the process id, or None while there is none.
    """

    def __init__(self, find: Callable[[], int | None]) -> None:
        self.find = find
        self.times: list[float] = []
        self.seconds: list[float] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self) -> MainThread:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.ended.wait(0.01):
            with suppress(OSError):
                pid = self.find()
                if pid is not None:
                    spent = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]
                    self.times.append(time.time())
                    self.seconds.append(int(spent) / 1e9)

    def at(self, times: Sequence[float]) -> tuple[float, ...]:
        """Processor seconds at these times, interpolated between the nearest two observations."""
        return tuple(np.interp(times, self.times, self.seconds))


def read_log(log: str, spawned: float, main: MainThread) -> Run:
    """The times in Caffe's log."""
    written = map(read_glog_line, log.splitlines())
    times = [timestamp(line.time) for line in written if line and DISPLAYED.fullmatch(line.message)]
    return Run(times[0] - spawned, steps(times), steps(main.at(times)))


def timestamp(written: str) -> float:
    """Seconds since the epoch of a time in Caffe's log, which has no year before glog 0.6."""
    year = "" if written[8] == " " else datetime.now().year
    return datetime.strptime(f"{year}{written}", "%Y%m%d %H:%M:%S.%f").timestamp()


def steps(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(after - before for before, after in itertools.pairwise(values))


def get_binary(folder: Path) -> Path:
    """Debian's ``caffe``, downloaded into a folder; it uses the runtime's libraries."""
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
    """Starts the binary; it finds its libraries as the runtime's Python does."""
    spawned = time.time()
    with (
        subprocess.Popen(
            [*command, "train", f"--solver={job.solver}"],
            env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"},
            stderr=subprocess.PIPE,
            start_new_session=True,  # like the worker: Linux shares processors among sessions
            text=True,
        ) as process,
        MainThread(lambda: process.pid) as main,
    ):
        log = process.stderr.read()  # type: ignore[union-attr]
    return read_log(log, spawned, main)


def supervised(job: JobDirectory) -> Run:
    """Starts ``caffe-batch train`` as a user would."""

    def worker() -> int | None:
        record = job.read_record()
        return record.attempts[-1].pid if record else None

    spawned = time.time()
    with (
        subprocess.Popen(
            [sys.executable, "-m", "caffe_batch", "train", str(job.path), "--restart"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
        MainThread(worker) as main,
    ):
        process.wait()
    run = read_log(job.log.read_text(), spawned, main)
    for path in job.results():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


def measure(
    case: tuple[int, int, int, int], command: Sequence[str], runtime: runtimes.Runtime, turns: int
) -> dict[str, float]:
    """The figures for a case."""
    width, iter_size, updates, display = case
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(
            Path(folder), width=width, max_iter=updates, iter_size=iter_size, display=display,
            test_interval=10**9, test_initialization="false", solver_mode="CPU",
        )  # fmt: skip
        alone, under = [], []
        for _ in range(turns):
            job.snapshots.mkdir(exist_ok=True)
            alone.append(bare(command, runtime, job))
            under.append(supervised(job))

    def best_us(times: Iterable[Sequence[float]]) -> float:
        return 1e6 * min(map(min, times)) / display

    clock = best_us(run.clock_s for run in alone), best_us(run.clock_s for run in under)
    thread = best_us(run.thread_s for run in alone), best_us(run.thread_s for run in under)
    return {
        "bare_us": clock[0],
        "supervised_us": clock[1],
        "throughput": clock[0] / clock[1],
        "bare_thread_us": thread[0],
        "supervised_thread_us": thread[1],
        "thread_throughput": thread[0] / thread[1],
        "bare_start_s": min(run.start_s for run in alone),
        "supervised_start_s": min(run.start_s for run in under),
    }


def main() -> None:
    """Measures all cases and prints a line for each."""
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
            print(f"{name}: per update")
            for kind, label in (("", "on the clock"), ("thread_", "Caffe's main thread")):
                print(
                    f"  {label:20} {found[f'bare_{kind}us']:10,.1f} us bare, "
                    f"{found[f'supervised_{kind}us']:10,.1f} us supervised, "
                    f"throughput {found[f'{kind}throughput']:.3f}"
                )
            print(
                f"  first update after {found['bare_start_s']:.2f} s bare, "
                f"{found['supervised_start_s']:.2f} s supervised"
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
