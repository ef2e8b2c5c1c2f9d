"""Files outlive versions: what an earlier version wrote can be read, reported and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from caffe_batch.schema import caffe_pb2
from tests.command import call
from tests.planned_jobs import write_lmdb

GOLDEN = Path(__file__).parent / "data" / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir())

#: State, updates done, and updates in all.
JOBS = {
    "finished": ("finished", 160, 160),
    "interrupted": ("interrupted", 103, 160),
    "growing": ("interrupted", 273, 333),
    "resplit": ("interrupted", 23, 160),
}

each_job = pytest.mark.parametrize("name", JOBS)
each_version = pytest.mark.parametrize("version", VERSIONS)


def copied(version: str, name: str, folder: Path) -> Path:
    """A golden job somewhere else, with its data: relative paths start there, as no other place
    that it names exists."""
    job = folder / name
    shutil.copytree(GOLDEN / version / name, job)
    write_lmdb(job / "data")
    return job


def weights(job: Path, update: int) -> list[list[float]]:
    net = caffe_pb2.NetParameter()
    net.ParseFromString((job / f"snapshots/snapshot_iter_{update}.caffemodel").read_bytes())
    return [list(blob.data) for layer in net.layer for blob in layer.blobs]


@each_version
@each_job
def test_status(version: str, name: str, tmp_path: Path) -> None:
    job = copied(version, name, tmp_path)
    state, done, updates = JOBS[name]
    told = call("status", job, "--json")
    assert told.code == 0, told.err
    content = json.loads(told.out)
    assert (content["state"], content["update"], content["updates"]) == (state, done, updates)
    assert content["loss"] > 0
    assert content["test"]
    assert call("status", job).code == 0


@each_version
def test_report(version: str, tmp_path: Path) -> None:
    jobs = [copied(version, name, tmp_path) for name in JOBS]
    done = call("report", *jobs, "--out", tmp_path / "report.html")
    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "out of host memory" in page
    assert "Traceback" not in page


@each_version
def test_a_finished_run_stays_as_it_is(version: str, tmp_path: Path, runtime: object) -> None:
    job = copied(version, "finished", tmp_path)
    before = {path: path.read_bytes() for path in job.rglob("*.json*")}
    done = call("train", job)
    assert done.code == 0, done.err
    assert "Finished already: 160 of 160 updates" in done.out
    assert {path: path.read_bytes() for path in before} == before


@each_version
@pytest.mark.parametrize("name", ["interrupted", "growing", "resplit"])
def test_going_on(version: str, name: str, tmp_path: Path, runtime: object) -> None:
    job = copied(version, name, tmp_path)
    _, begun, updates = JOBS[name]
    lines = (job / "metrics.jsonl").read_text().splitlines()
    attempts = json.loads((job / "job.json").read_text())["attempts"]
    done = call("train", job, "--quiet")
    assert done.code == 0, done.err
    assert f"Finished: {updates} of {updates} updates." in done.out
    kept = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    assert kept[: len(lines)] == [json.loads(line) for line in lines]
    losses = [line["update"] for line in kept if "loss" in line]
    assert losses == list(range(1, updates + 1))
    record = json.loads((job / "job.json").read_text())
    for old, new in zip(attempts, record["attempts"], strict=False):
        assert {key: new.get(key) for key in old if key != "phase"} == {
            key: value for key, value in old.items() if key != "phase"
        }
    assert record["attempts"][len(attempts)]["first_update"] == begun
    if name == "interrupted":  # the same training as the one that was never interrupted
        for mine, whole in zip(
            weights(job, updates), weights(GOLDEN / version / "finished", updates), strict=True
        ):
            assert mine == pytest.approx(whole, rel=1e-4, abs=1e-6)  # another machine's BLAS
