"""Fine-tuning, and continuing from another run, on real Caffe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from caffe_batch import engines
from caffe_batch.engines.caffe.snapshots import list_snapshots, named_snapshot
from caffe_batch.engines.events import read_worker_line
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import failure
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.planned_jobs import NET, FinishedJob, write_job, write_lmdb

Weights = dict[str, list[list[float]]]


def weights_of(file: Path) -> Weights:
    """The values of each layer of a .caffemodel."""
    net = caffe_pb2.NetParameter.FromString(file.read_bytes())
    return {layer.name: [list(blob.data) for blob in layer.blobs] for layer in net.layer
            if layer.blobs}  # fmt: skip


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


def still_job(folder: Path, **changes: str) -> JobDirectory:
    """A job that changes no weights, so that its snapshot tells what it began with."""
    folder.mkdir()
    net = NET.format(data=write_lmdb(folder / "data"), batch_size=6, width=8)
    for old, new in changes.items():
        net = net.replace(f'"{old}"', f'"{new}"')
    return write_job(folder, max_iter=2, net=net, base_lr=0.0, random_seed=5)


@pytest.fixture(scope="module")
def trained(finished: FinishedJob) -> Snapshot:
    return list_snapshots(finished.job.snapshots)[-1]


def test_weights_are_what_update_0_begins_with(
    runtime: Runtime, trained: Snapshot, tmp_path: Path
) -> None:
    job = still_job(tmp_path / "still")
    train(job, runtime, Options(weights=(trained.weights,)))
    (snapshot,) = list_snapshots(job.snapshots)
    assert weights_of(snapshot.weights) == weights_of(trained.weights)
    record = record_of(job)
    assert record.weights == (str(trained.weights),)
    assert f"Starting with the weights of {trained.weights}." in record.attempts[0].choices


def test_of_several_files_each_gives_its_layers_and_the_last_wins(
    runtime: Runtime, trained: Snapshot, tmp_path: Path
) -> None:
    other = still_job(tmp_path / "other", ip2="ip3")
    train(other, runtime)
    (renamed,) = list_snapshots(other.snapshots)
    job = still_job(tmp_path / "still")
    train(job, runtime, Options(weights=(trained.weights, renamed.weights)))
    (snapshot,) = list_snapshots(job.snapshots)
    begun = weights_of(snapshot.weights)
    assert begun["ip1"] == weights_of(renamed.weights)["ip1"]
    assert begun["ip2"] == weights_of(trained.weights)["ip2"]


def test_layers_without_weights_are_named(
    runtime: Runtime, trained: Snapshot, tmp_path: Path
) -> None:
    job = still_job(tmp_path / "still", ip2="new")
    seen: list[Progress] = []
    train(job, runtime, Options(weights=(trained.weights,)), seen.append)
    note = "No weights file has layer new: its fillers' values stay."
    assert note in seen[-1].notes
    assert note in record_of(job).attempts[0].choices


def test_weights_of_another_net_are_refused(
    runtime: Runtime, trained: Snapshot, tmp_path: Path
) -> None:
    job = still_job(tmp_path / "still", ip1="a", ip2="b")
    with pytest.raises(InputError, match="no layer of the net has weights in"):
        train(job, runtime, Options(weights=(trained.weights,)))
    assert list_snapshots(job.snapshots) == []


def test_files_that_were_not_weights_bind_nothing(
    runtime: Runtime, trained: Snapshot, tmp_path: Path
) -> None:
    """Nothing was learned from them: others take their place, without --restart."""
    job = still_job(tmp_path / "still")
    with pytest.raises(InputError, match="it is text; a prototxt has no weights"):
        train(job, runtime, Options(weights=(job.net,)))
    train(job, runtime, Options(weights=(trained.weights,)))
    (snapshot,) = list_snapshots(job.snapshots)
    assert weights_of(snapshot.weights) == weights_of(trained.weights)
    assert record_of(job).weights == (str(trained.weights),)


def test_a_run_continues_as_it_began(runtime: Runtime, trained: Snapshot, tmp_path: Path) -> None:
    job = still_job(tmp_path / "still")
    train(job, runtime, Options(weights=(trained.weights,)))
    (snapshot,) = list_snapshots(job.snapshots)
    for file in (snapshot.state, snapshot.weights):
        file.unlink()
    record = record_of(job)
    job.write_record(type(record)(**{**vars(record), "updates_done": 0}))
    train(job, runtime)  # no snapshot is left, so it begins again: with the same weights
    assert weights_of(list_snapshots(job.snapshots)[0].weights) == weights_of(trained.weights)
    assert record_of(job).weights == (str(trained.weights),)
    record = record_of(job)
    job.write_record(type(record)(**{**vars(record), "updates_done": 0}))
    with pytest.raises(InputError, match="the run has already begun"):
        train(job, runtime, Options(weights=(snapshot.weights, trained.weights)))


def test_the_snapshot_of_another_run(
    runtime: Runtime, finished: FinishedJob, tmp_path: Path
) -> None:
    first = list_snapshots(finished.job.snapshots)[0]
    job = write_job(tmp_path, max_iter=30, snapshot=0)
    train(job, runtime, Options(snapshot=first.state))
    updates = [line.update for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert updates == list(range(26, 31))
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [30]
    record = record_of(job)
    assert record.initial_state == str(first.state)
    assert record.attempts[0].resumed_from == str(first.state)
    state = caffe_pb2.SolverState.FromString(list_snapshots(job.snapshots)[0].state.read_bytes())
    assert state.iter == 30


def test_what_cannot_begin(runtime: Runtime, finished: FinishedJob, tmp_path: Path) -> None:
    first, *_, last = list_snapshots(finished.job.snapshots)
    job = write_job(tmp_path, max_iter=60)
    for options, message in (
        (Options(weights=(tmp_path / "no.caffemodel",)), "no.caffemodel: no such file"),
        (Options(weights=(job.snapshots.parent,)), "not a regular file"),
        (Options(weights=(first.weights,), snapshot=first.state), "exclude each other"),
        (Options(snapshot=last.state), "taken after 60 updates"),
        (Options(snapshot=first.weights), "as Caffe names its solverstates"),
        (Options(snapshot=tmp_path / "a_iter_3.solverstate"), "a_iter_3.solverstate: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            train(job, runtime, options)
    assert not job.metrics.exists()


def test_a_named_snapshot_needs_its_weights(tmp_path: Path) -> None:
    state = tmp_path / "a_iter_3.solverstate.h5"
    state.touch()
    with pytest.raises(InputError, match=r"a_iter_3.caffemodel.h5: no such file"):
        named_snapshot(state)
    weights = tmp_path / "a_iter_3.caffemodel.h5"
    weights.touch()
    assert named_snapshot(state) == Snapshot(3, state, weights)


def test_a_damaged_snapshot_of_another_run(
    finished: FinishedJob, runtime: Runtime, tmp_path: Path
) -> None:
    last = list_snapshots(finished.job.snapshots)[0]
    state = tmp_path / last.state.name
    state.write_bytes(last.state.read_bytes()[:-1])
    shutil.copy(last.weights, tmp_path / last.weights.name)
    job = write_job(tmp_path)
    with pytest.raises(InputError, match=r"the snapshot is not whole: .* is cut off or damaged"):
        train(job, runtime, Options(snapshot=state))


@pytest.mark.parametrize(
    ("refused", "remedies", "hint"),
    [("device", ["cpu"], "trains on the CPU"), ("weights", [], "Give weights of this net.")],
)
def test_the_hint_belongs_to_what_was_refused(
    refused: str, remedies: list[str], hint: str, tmp_path: Path
) -> None:
    """Whatever device was asked for beside refused weights."""
    word = read_worker_line(json.dumps({"event": "refused", "why": "no", "wants": refused}))
    ending = engines.find().classify(1, word, [])
    error = failure(engines.find(), ending, 0, 60, tmp_path / "caffe.log", [], missing=[], again="")
    assert [option.name for option in error.remedies] == remedies
    assert hint in str(error.hint)
