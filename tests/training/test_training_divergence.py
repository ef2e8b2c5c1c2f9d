"""A loss that diverges: real Caffe stops before bad weights count, and can go back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import DIVERGED, list_snapshots
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training import recovery
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.planned_jobs import NET, write_job, write_lmdb


def exploding(folder: Path, **fields: object) -> JobDirectory:
    """30 good updates; the 31st has a rate of 1e29. A snapshot after each."""
    settings = {"lr_policy": '"multistep"', "gamma": 1e30, "stepvalue": 30, "snapshot": 1}
    return write_job(folder, **{**settings, **fields})  # type: ignore[arg-type]


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


def updates_of(job: JobDirectory) -> list[UpdateMetrics]:
    return [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]


def all_finite(weights: Path) -> bool:
    net = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    return all(math.isfinite(x) for layer in net.layer for blob in layer.blobs for x in blob.data)


def test_the_good_snapshot_stays_and_the_bad_one_does_not_count(
    runtime: Runtime, tmp_path: Path
) -> None:
    job = exploding(tmp_path)
    with pytest.raises(
        TrainingError, match="at update 31 of 60: diverged: after update 31 the loss is nan"
    ) as failure:
        train(job, runtime)
    assert "It continues from the newest snapshot that is whole." in str(failure.value.hint)
    record = record_of(job)
    assert (record.state, record.updates_done) == (JobState.FAILED, 31)
    assert record.attempts[0].ending == "diverged"
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == list(range(1, 31))
    assert (job.snapshots / f"tiny_iter_31.caffemodel{DIVERGED}").is_file()
    assert all_finite(job.snapshots / "tiny_iter_30.caffemodel")
    lines = updates_of(job)
    assert [line.update for line in lines] == list(range(1, 33))
    assert [line.update for line in lines if line.loss is None] == [32]
    # Run again, it begins with the good snapshot, and says the same.
    with pytest.raises(TrainingError, match="after update 31 the loss is nan"):
        train(job, runtime)
    assert record_of(job).attempts[1].first_update == 30


def test_the_last_good_snapshot_stays_where_only_one_is_kept(
    runtime: Runtime, tmp_path: Path
) -> None:
    """The one before goes once the newest has proved itself: at the next update's loss."""
    job = exploding(tmp_path)
    with pytest.raises(TrainingError, match="after update 31 the loss is nan"):
        train(job, runtime, Options(keep_last=1))
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [30]
    (tmp_path / "good").mkdir()
    good = write_job(tmp_path / "good", snapshot=10, max_iter=35)
    train(good, runtime, Options(keep_last=1))
    assert [snapshot.update for snapshot in list_snapshots(good.snapshots)] == [35]


@pytest.mark.both
def test_rollback_continues_with_a_smaller_rate(runtime: Runtime, tmp_path: Path) -> None:
    job = exploding(tmp_path)
    seen: list[Progress] = []
    outcome = train(job, runtime, Options(rollback=1e-30), seen.append)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 60)
    first, second = record_of(job).attempts
    assert (first.ending, first.last_update) == ("diverged", 31)
    assert (second.ending, second.first_update) == ("finished", 30)
    notes = seen[-1].notes
    assert notes[0].startswith("Training on the CPU")  # of the try before
    assert notes[1] == (
        "After update 31 the loss is nan: going back to the last good snapshot with base_lr 1e-31."
    )
    lines = updates_of(job)
    assert [line.update for line in lines] == list(range(1, 61))
    assert all(line.loss is not None for line in lines)
    (change,) = (c for c in json.loads(job.plan.read_text())["changes"] if c["field"] == "base_lr")
    assert (change["from"], change["to"]) == (0.1, 1e-31)
    assert "after update 31 the loss is nan" in change["reason"]


def test_rollbacks_are_bounded(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MOST_ROLLBACKS", 1)
    job = exploding(tmp_path)
    with pytest.raises(TrainingError, match="the run has diverged again after 1 rollbacks"):
        train(job, runtime, Options(rollback=0.5))
    assert [attempt.ending for attempt in record_of(job).attempts] == ["diverged"] * 2
    assert record_of(job).state is JobState.FAILED
    assert "base_lr: 0.05" in job.solver.read_text()


def test_every_stage_gets_the_smaller_rate(runtime: Runtime, tmp_path: Path) -> None:
    job = exploding(
        tmp_path, max_iter=20, snapshot=10, stepvalue=25, later=[{"max_iter": 40, "base_lr": 0.2}]
    )
    train(job, runtime, Options(rollback=1e-30))
    for name, rate in (("solver.prototxt", "1e-31"), ("solver.stage2.prototxt", "2e-31")):
        assert f"base_lr: {rate}\n" in (job.path / name).read_text()
    assert [(a.stage, a.ending) for a in record_of(job).attempts] == [
        (1, "finished"),
        (2, "diverged"),
        (2, "finished"),
    ]


def test_a_loss_beyond_the_bound(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=1e-6)
    with pytest.raises(TrainingError, match=r"after update 0 the loss is 1\.\d+"):
        train(job, runtime, Options(max_loss=0.5))
    assert train(job, runtime, Options(max_loss=50)).state is JobState.FINISHED


def test_weights_that_are_not_finite_at_the_very_end(runtime: Runtime, tmp_path: Path) -> None:
    """The last update has an infinite rate, and no loss after it shows that."""
    slow = "param { lr_mult: 0.02 } param { lr_mult: 0.02 } inner_product_param {"
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8)
    job = write_job(
        tmp_path, net=net.replace("inner_product_param {", slow), max_iter=32, snapshot=30,
        base_lr=4, gamma=1e38, stepsize=31,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="after update 32 the weights are not finite"):
        train(job, runtime)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [30]
    assert not all_finite(job.snapshots / f"tiny_iter_32.caffemodel{DIVERGED}")


def test_nothing_good_to_go_back_to(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=1e30, max_iter=30)
    outcome = train(job, runtime, Options(rollback=1e-31))
    assert outcome.state is JobState.FINISHED
    assert [attempt.first_update for attempt in record_of(job).attempts] == [0, 0]
