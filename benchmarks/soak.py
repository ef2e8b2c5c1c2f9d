"""Kills a run many times at random, and looks at what is lost.

    python benchmarks/soak.py [--engine pytorch] [--kills 200] [--updates 6000] [--seed 1]

A job of three growing stages, with a snapshot every five updates, is killed at random points:
SIGKILL to the worker, to the supervisor, or to both at once, a fifth of them at the start. After
each kill, `caffe-batch train DIR` is called again immediately. No update ends on a whole number of
epochs, so every attempt has to find the record to continue with: at the end the weights and the
solver's history must be those of an uninterrupted run, bit for bit. With PyTorch the net also has
dropout, crops and mirrors, whose random numbers must go on where they were. Prints the figures and
writes results/soak.json, or soak-pytorch.json. If the weights differ, it says where that began: the
first update with another loss, the first snapshot with other weights, and the attempts around it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from caffe_batch import engines, runtimes
from caffe_batch.engines.caffe.snapshots import CORRUPT, list_snapshots
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests import planned_jobs
from tests.planned_jobs import NET, write_job

RESULTS = Path(__file__).parent / "results"
KEEP_EVERY = 100
VICTIMS = ("worker", "supervisor", "both")

#: What dropout is put in front of, and both.
DROPOUT = (
    'layer {\n  name: "ip2"',
    'layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }\nlayer {\n  name: "ip2"',
)

#: The fields of an attempt that are shown.
SHOWN = (
    "number", "stage", "resumed_from", "first_update", "last_update", "batch_size", "iter_size",
    "threads", "ending", "detail", "choices",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """The state at a kill: workers so far, updates done, the newest recorded snapshot."""

    workers: int
    update: int
    recorded: int


def make_job(folder: Path, updates: int, engine: str) -> JobDirectory:
    """Three stages: 63, 133 and 259 samples per update, from 70 records."""
    folder.mkdir()
    planned_jobs.engine = engine
    net, data = None, None
    if engine != "caffe":
        data = planned_jobs.write_lmdb(folder / "data")
        net = NET.format(data=data, batch_size=7, width=1_000)
        net = net.replace("scale: 0.00390625", "scale: 0.00390625 crop_size: 4 mirror: true")
        net = net.replace(*DROPOUT)
    ends = [updates // 2, updates * 3 // 4, updates]
    return write_job(
        folder, max_iter=ends[0], batch_size=7, iter_size=9, snapshot=5, width=10_000,
        lr_policy='"fixed"', base_lr=0.01, test_interval=500, display=1000, net=net,
        later=[
            {"max_iter": end, "iter_size": iter_size}
            for end, iter_size in zip(ends[1:], (19, 37), strict=True)
        ],
    )  # fmt: skip


def start(job: JobDirectory) -> subprocess.Popen[bytes]:
    """``caffe-batch train`` as a child process."""
    options = ["--quiet", "--keep-last", "3", "--keep-every", str(KEEP_EVERY)]
    return subprocess.Popen(
        [sys.executable, "-m", "caffe_batch", "train", str(job.path), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def last_update(job: JobDirectory) -> int:
    """The last update recorded in metrics.jsonl."""
    if not job.metrics.is_file():
        return 0
    with job.metrics.open("rb") as file:
        file.seek(max(0, job.metrics.stat().st_size - 2000))
        lines = [line for line in file.read().split(b"\n")[1:-1] if line]
    return max((json.loads(line).get("update", 0) for line in lines), default=0)


def recorded(job: JobDirectory) -> int:
    """The newest snapshot that is known to be whole."""
    known = [each.update for each in list_snapshots(job.snapshots) if each.record.is_file()]
    return max(known, default=0)


def kill(job: JobDirectory, supervisor: subprocess.Popen[bytes], victim: str) -> None:
    """Sends SIGKILL to one or both; returns when the supervisor has ended."""
    record = job.read_record()
    worker = record.attempts[-1].pid if record and record.attempts else 0
    if victim != "worker":
        supervisor.kill()
    if victim != "supervisor":
        if runs(worker, job) and parent(worker) == supervisor.pid:
            os.killpg(worker, signal.SIGKILL)
        else:
            supervisor.kill()  # it has no worker at the moment, only one that an earlier one left
    supervisor.communicate()


def runs(pid: int, job: JobDirectory) -> bool:
    """Whether this is a worker of the job, and not another process with the same id."""
    try:
        return str(job.path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def parent(pid: int) -> int:
    """The id of a process's parent; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def learned(snapshot: Snapshot) -> tuple[list[Any], list[Any]]:
    """The weights and the history of a snapshot."""
    net = caffe_pb2.NetParameter.FromString(snapshot.weights.read_bytes())
    state = caffe_pb2.SolverState.FromString(snapshot.state.read_bytes())
    weights = [list(blob.data) for layer in net.layer for blob in layer.blobs]
    return weights, [list(blob.data) for blob in state.history]


def losses(job: JobDirectory) -> dict[int, float | None]:
    """The loss of each update in metrics.jsonl."""
    lines = read_metrics(job.metrics)
    return {line.update: line.loss for line in lines if isinstance(line, UpdateMetrics)}


def told_missing(job: JobDirectory) -> set[int]:
    """The updates whose losses are missing, according to the attempts."""
    record = job.read_record()
    notes = " ".join(note for each in (record.attempts if record else ()) for note in each.choices)
    bounds = re.findall(r"lacks the losses and tests of updates (\d+) to (\d+)", notes)
    return {each for first, last in bounds for each in range(int(first), int(last) + 1)}


def differences(killed: JobDirectory, straight: JobDirectory) -> dict[str, Any]:
    """Where the killed run began to differ from the uninterrupted one; empty if it never did.

    A loss is that of the weights before its update, on the samples of its update.
    """
    mine, theirs = losses(killed), losses(straight)
    update = min((each for each in mine if mine[each] != theirs.get(each)), default=None)
    kept = {each.update: each for each in list_snapshots(straight.snapshots)}
    snapshots = [each for each in list_snapshots(killed.snapshots) if each.update in kept]
    differ = [each.update for each in snapshots if learned(each) != learned(kept[each.update])]
    if update is None and not differ:
        return {}
    began = min(each for each in (update, *differ) if each is not None)
    record = killed.read_record()
    attempts = record.attempts if record else ()
    there = [each.number for each in attempts if each.first_update < began]
    return {
        "first_update_with_another_loss": update,
        "snapshots_before_it_alike": [each.update for each in snapshots if each.update < began],
        "first_snapshot_that_differs": min(differ, default=None),
        "splits": sorted({(each.batch_size, each.iter_size) for each in attempts}, key=str),
        "attempts_around": [
            {name: getattr(each, name) for name in SHOWN}
            for each in attempts
            if there and abs(each.number - there[-1]) < 3
        ],
    }


def soak(job: JobDirectory, points: list[int], draw: random.Random) -> dict[str, Any]:
    """Kills the run once past each of these updates, then lets it finish."""
    killed: Counter[str] = Counter()
    kills: list[Kill] = []
    for number, point in enumerate(points, start=1):
        with start(job) as supervisor:
            starting = draw.random() < 0.2
            target = 0 if starting else max(point, last_update(job) + 1)
            while supervisor.poll() is None and last_update(job) < target:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.5 if starting else 0.3))
            if supervisor.poll() is not None:
                said = supervisor.communicate()[1].decode()
                if supervisor.returncode:
                    raise SystemExit(f"after {len(kills)} kills train failed by itself:\n{said}")
                break
            victim = draw.choice(VICTIMS)
            killed[f"{victim}{' while starting' if starting else ''}"] += 1
            before = job.read_record()
            workers = len(before.attempts) if before else 0
            kills.append(Kill(workers, last_update(job), recorded(job)))
            kill(job, supervisor, victim)
        print(f"kill {number}: {victim}, {kills[-1]}", flush=True)
    with start(job) as supervisor:
        said = supervisor.communicate()[1].decode()
    record = job.read_record()
    if supervisor.returncode or record is None:
        raise SystemExit(f"after {len(kills)} kills train failed:\n{said}")
    resumed = [
        (each, record.attempts[each.workers].first_update)
        for each in kills
        if each.workers < len(record.attempts)
    ]
    return {
        "kills": {"all": len(kills), **dict(sorted(killed.items()))},
        "workers": len(record.attempts),
        "state": record.state.value,
        "updates": record.updates_done,
        "went_back_behind_a_recorded_snapshot": sum(
            first < each.recorded for each, first in resumed
        ),
        "updates_done_again": sum(max(0, each.update - first) for each, first in resumed),
        "snapshots_set_aside": len(list(job.snapshots.glob(f"*.solverstate{CORRUPT}"))),
    }


def main() -> None:
    """Runs both, compares them, prints and writes the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=engines.NAMES, default=engines.DEFAULT)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    points = sorted(draw.randrange(args.updates - 100) for _ in range(args.kills))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder, "killed"), args.updates, args.engine)
        result = soak(job, points, draw)
        straight = make_job(Path(folder, "straight"), args.updates, args.engine)
        train(
            straight,
            runtimes.find(None, engines.find(args.engine)),
            Options(keep_last=3, keep_every=KEEP_EVERY),
        )
        ends = [list_snapshots(each.snapshots)[-1] for each in (job, straight)]
        different = differences(job, straight)
        lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
        missing = {*range(1, args.updates + 1)} - {line.update for line in lines}
        result |= {
            "bit_identical": not different and learned(ends[0]) == learned(ends[1]),
            "differences": different,
            "losses_twice_in_metrics": len(lines) - len({line.update for line in lines}),
            "losses_missing_in_metrics": len(missing),
            "of_these_not_told": len(missing - told_missing(job)),
            "seconds": round(time.monotonic() - began),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "seed": args.seed,
            "engine": args.engine,
        }
    print(json.dumps(result, indent=2))
    name = "soak.json" if args.engine == engines.DEFAULT else f"soak-{args.engine}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if (
        result["state"] != "finished"
        or not result["bit_identical"]
        or result["of_these_not_told"]
        or result["losses_twice_in_metrics"]
        or result["went_back_behind_a_recorded_snapshot"]
    ):
        raise SystemExit("something was lost")


if __name__ == "__main__":
    main()
