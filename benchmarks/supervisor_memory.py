"""The supervisor's memory over a run of a million updates: it must not grow.

    python benchmarks/supervisor_memory.py [--updates N] [--json FILE]

A simulated worker (simulated_worker.py) reports and logs such a run in half a minute, with a test
every thousand updates and three log lines every twenty. Prints the resident set of the supervisor's
process along the way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training import Progress, train
from tests.planned_jobs import write_job

SCRIPT = Path(__file__).with_name("simulated_worker.py")
PAGE = os.sysconf("SC_PAGESIZE")


def resident_bytes() -> int:
    """Resident set of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Watch:
    """An observer that records the resident set at each tenth of the run."""

    def __init__(self, updates: int) -> None:
        self.step = updates // 10
        self.seen: dict[int, int] = {}

    def __call__(self, progress: Progress) -> None:
        """Called five times a second."""
        if progress.update >= self.step * (len(self.seen) + 1):
            self.seen[progress.update] = resident_bytes()


def main() -> None:
    """Runs it and prints the resident set at each tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), max_iter=options.updates)
        watch = Watch(options.updates)
        train(job, Interpreter(sys.executable), observer=watch, script=SCRIPT)
        log_bytes, metrics_bytes = job.log.stat().st_size, job.metrics.stat().st_size
    for update, resident in watch.seen.items():
        print(f"{update:>10,} updates: {resident / 2**20:.2f} MiB")
    print(f"caffe.log {log_bytes / 2**20:.1f} MiB, metrics.jsonl {metrics_bytes / 2**20:.1f} MiB")
    if options.json:
        content = {"resident_bytes": watch.seen, "log_bytes": log_bytes}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
