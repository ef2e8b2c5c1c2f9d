"""What supervision costs: updates per second under ``train``, and of Caffe's Solve() alone.

    python benchmarks/supervision_cost.py

Runs both by turns on the same runtime, on a net with very short updates and on one with long ones,
and prints the best of each, which other work on the machine disturbs least, and their ratio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch import runtimes
from caffe_batch.training.job import JobDirectory
from caffe_batch.training.metrics import UpdateMetrics, read_metrics
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.planned_jobs import write_job

TURNS = 9

#: A hidden layer this wide, and so many updates (a few seconds in all).
CASES = {"very short updates": (700, 20_000), "long updates": (60_000, 60)}

ALONE = """
import sys, time, json, caffe
caffe.init_log(0, True)
solver = caffe.get_solver(sys.argv[1])
times = []
solver.add_callback(lambda: None, lambda: times.append(time.monotonic()))
solver.solve()
print(json.dumps((len(times) - 1) / (times[-1] - times[0])))
"""


def alone(job: JobDirectory, runtime: runtimes.Runtime) -> float:
    """Updates per second of Solve() with nothing but a clock."""
    done = subprocess.run(
        runtime.command(["-c", ALONE, str(job.solver)]),
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return float(json.loads(done.stdout))


def supervised(job: JobDirectory, runtime: runtimes.Runtime) -> float:
    """Updates per second between the first and the last loss record."""
    train(job, runtime, Options(restart=True))
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    first, last = lines[0], lines[-1]
    return (last.update - first.update) / (last.seconds - first.seconds)


def main() -> None:
    """Measure both cases and print a line for each."""
    runtime = runtimes.find()
    for name, (width, updates) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            job = write_job(
                Path(folder), width=width, max_iter=updates, iter_size=1, test_interval=10**6
            )
            job.snapshots.mkdir()
            rates = [(alone(job, runtime), supervised(job, runtime)) for _ in range(TURNS)]
        without, under = (max(column) for column in zip(*rates, strict=True))
        print(
            f"{name}: {1e6 / without:,.1f} us alone, {1e6 / under:,.1f} us supervised, "
            f"throughput {under / without:.3f} of Caffe's own"
        )


if __name__ == "__main__":
    main()
