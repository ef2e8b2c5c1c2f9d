"""Writes small job directories, as ``plan`` does, over real data: for tests that train."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.record import Attempt
from caffe_batch.runtimes.base import WorkerPlaces
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.outcome import Outcome
from caffe_batch.training.progress import Progress

#: Records of :func:`write_lmdb`, a multiple of no batch size in use.
RECORDS = 70
CLASSES = 4
HEIGHT, WIDTH = 5, 7

NET = """
name: "tiny"
layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: {batch_size} }}
}}
layer {{
  name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: 10 }}
}}
layer {{
  name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: {width} weight_filler {{ type: "xavier" }} }}
}}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }}
}}
layer {{
  name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include {{ phase: TEST }}
}}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""

#: 8.4 MB a sample, and little work.
WIDE = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: 60 }} }}
layer {{ name: "tile" type: "Tile" bottom: "data" top: "wide"
  tile_param {{ axis: 1 tiles: 60000 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "wide" top: "ip"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "gaussian" std: 1e-4 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

#: The engine of the jobs of :func:`write_job`, if nothing else is said (tests/both_engines.py).
engine = "caffe"

#: Solver fields, as they are written.
SOLVER = {
    "base_lr": 0.1,
    "lr_policy": '"step"',
    "gamma": 0.5,
    "stepsize": 50,
    "momentum": 0.9,
    "display": 20,
    "test_iter": 7,
    "test_interval": 20,
    "random_seed": 1,
}


@dataclass(frozen=True)
class FinishedJob:
    """A job, how it ended, and what an observer saw on the way."""

    job: JobDirectory
    outcome: Outcome
    seen: tuple[Progress, ...]


def write_lmdb(folder: Path) -> Path:
    """A database of RECORDS images of CLASSES classes: noise with one bright row each."""
    draw = random.Random(7)
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as put:
        for record in range(RECORDS):
            label = record % CLASSES
            pixels = [
                draw.randrange(160, 256) if row == label else draw.randrange(96)
                for row in range(HEIGHT)
                for _ in range(WIDTH)
            ]
            datum = caffe_pb2.Datum(
                channels=1, height=HEIGHT, width=WIDTH, label=label, data=bytes(pixels)
            )
            put.put(b"%08d" % record, datum.SerializeToString())
    return folder


def write_job(
    folder: Path,
    *,
    max_iter: int = 60,
    batch_size: int = 6,
    iter_size: int = 3,
    snapshot: int = 0,
    width: int = 8,
    net: str | None = None,
    later: Sequence[Mapping[str, object]] = (),
    **fields: object,
) -> JobDirectory:
    """A planned job in ``folder``/job, its data in ``folder``/data.

    Args:
        folder: An empty folder.
        max_iter: Updates to do.
        batch_size: Samples of a micro-batch.
        iter_size: Micro-batches of an update.
        snapshot: Updates between snapshots, 0 for the last one alone.
        width: Neurons of the hidden layer: how long an update takes.
        net: Text of another net.
        later: For each stage after the first, the solver fields that differ from the first's;
            max_iter and iter_size among them.
        fields: Other solver fields, as they are written; None leaves one out.
    """
    job = JobDirectory(folder / "job")
    job.path.mkdir()
    if net is None:
        data = write_lmdb(folder / "data")
        net = NET.format(data=data, batch_size=batch_size, width=width)
    solver: dict[str, object] = {
        **SOLVER,
        "net": f'"{job.net}"',
        "iter_size": iter_size,
        "max_iter": max_iter,
        "snapshot": snapshot,
        "snapshot_prefix": f'"{job.snapshots / "tiny"}"',
        **fields,
    }
    files = JobFiles(job.path)
    solvers = [solver]
    for number, own in enumerate(later, start=2):
        solvers.append({**solver, "net": f'"{files.stage_net(number)}"', **own})
    for number, values in enumerate(solvers, start=1):
        given = {name: value for name, value in values.items() if value is not None}
        text = "".join(f"{name}: {value}\n" for name, value in given.items())
        files.stage_solver(number).write_text(text)
        files.stage_net(number).write_text(net)
    plan = {
        "format": 2,
        "engine": engine,
        "effective_batch": batch_size * iter_size,
        "batch_size": batch_size,
        "iter_size": iter_size,
        "gpus": 1,
        "train_records": RECORDS,
        "working_directory": str(folder),
        "stages": [
            {
                "effective_batch": batch_size * int(str(values["iter_size"])),
                "solver": files.stage_solver(number).name,
                "net": files.stage_net(number).name,
            }
            for number, values in enumerate(solvers, start=1)
        ],
    }
    job.plan.write_text(json.dumps(plan))
    return job


def attempts_of(job: JobDirectory) -> tuple[Attempt, ...]:
    """The workers of a job so far."""
    record = job.read_record()
    assert record is not None
    return record.attempts


def nowhere() -> WorkerPlaces:
    """For a worker of this machine's Python, which need not be shown any files."""
    raise AssertionError("an interpreter sees every file")
