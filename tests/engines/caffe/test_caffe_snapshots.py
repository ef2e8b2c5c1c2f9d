"""Which snapshots count: on those of real Caffe, cut, exchanged and edited."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshot_contents import check_contents
from caffe_batch.engines.caffe.snapshots import (
    CORRUPT,
    check,
    confirm,
    finish_pruning,
    list_snapshots,
    newest_whole,
    prune,
    superfluous,
)
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.supervisor import train
from tests.planned_jobs import FinishedJob, write_job

SHARED = """
layer { name: "d" type: "DummyData" top: "x" top: "y"
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 3 } data_filler { value: 1 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "n" type: "BatchNorm" bottom: "a" top: "n" }
layer { name: "c" type: "InnerProduct" bottom: "n" top: "c" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "l" type: "EuclideanLoss" bottom: "c" bottom: "y" top: "l" }
"""


@pytest.fixture
def folder(finished: FinishedJob, tmp_path: Path) -> Path:
    """A copy of real snapshots of updates 25, 50 and 60."""
    return Path(shutil.copytree(finished.job.snapshots, tmp_path / "snapshots"))


def without_records(folder: Path) -> list[Snapshot]:
    for record in folder.glob("*.json"):
        record.unlink()
    return list_snapshots(folder)


def test_what_caffe_wrote_is_whole_and_recorded(folder: Path) -> None:
    for snapshot in list_snapshots(folder):
        content = json.loads(snapshot.record.read_text())
        assert content["update"] == snapshot.update
        assert content["files"][snapshot.state.name]["bytes"] == snapshot.state.stat().st_size
        check(snapshot)


def test_a_cut_anywhere_is_seen(folder: Path) -> None:
    snapshot = without_records(folder)[0]
    weights, state = snapshot.weights.read_bytes(), snapshot.state.read_bytes()
    whole = caffe_pb2.NetParameter.FromString(weights)
    parameters = [blob for layer in whole.layer for blob in layer.blobs]
    for size in range(len(weights)):
        snapshot.weights.write_bytes(weights[:size])
        try:
            check_contents(25, snapshot.state, snapshot.weights)
        except DamagedSnapshotError:
            continue
        # Between the layers behind the last parameter nothing is missing that Caffe reads.
        cut = caffe_pb2.NetParameter.FromString(weights[:size])
        assert [blob for layer in cut.layer for blob in layer.blobs] == parameters
    snapshot.weights.write_bytes(weights)
    for size in range(len(state)):
        snapshot.state.write_bytes(state[:size])
        with pytest.raises(DamagedSnapshotError):
            check_contents(25, snapshot.state, snapshot.weights)


def test_zeros_at_the_end_are_seen(folder: Path) -> None:
    """As a file system may leave a file after a power loss: the right size, without content."""
    snapshot = without_records(folder)[0]
    for path in (snapshot.state, snapshot.weights):
        content = path.read_bytes()
        path.write_bytes(content[:-40] + bytes(40))
        with pytest.raises(DamagedSnapshotError, match="cut off or damaged"):
            check_contents(25, snapshot.state, snapshot.weights)
        path.write_bytes(content)


def test_a_changed_value_is_seen_by_the_checksum(folder: Path) -> None:
    snapshot = list_snapshots(folder)[0]
    content = bytearray(snapshot.weights.read_bytes())
    place = content.index(b"ip2") + 40  # among the weights
    content[place] ^= 1
    snapshot.weights.write_bytes(content)
    check_contents(25, snapshot.state, snapshot.weights)  # parses and agrees all the same
    with pytest.raises(DamagedSnapshotError, match="is not the file that was recorded"):
        check(snapshot)


def test_files_that_do_not_belong_together(folder: Path, runtime: Runtime, tmp_path: Path) -> None:
    first, second, _ = without_records(folder)
    with pytest.raises(DamagedSnapshotError, match="is from update 50, not 25"):
        check_contents(25, second.state, first.weights)
    (tmp_path / "wide").mkdir()
    other = write_job(tmp_path / "wide", max_iter=25, width=9)
    train(other, runtime)
    (wide,) = list_snapshots(other.snapshots)
    with pytest.raises(DamagedSnapshotError, match="history of 4 blobs that doesn't match the 4"):
        check_contents(25, first.state, wide.weights)


@pytest.mark.parametrize("solver", ["SGD", "Adam"])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_shared_parameters_and_double_histories(
    solver: str, form: str, runtime: Runtime, tmp_path: Path
) -> None:
    job = write_job(
        tmp_path, net=SHARED, max_iter=2, iter_size=1, test_interval=0, test_iter=None,
        type=f'"{solver}"', snapshot_format=form,
    )  # fmt: skip
    train(job, runtime)
    (snapshot,) = list_snapshots(job.snapshots)
    assert snapshot.record.is_file()
    content = snapshot.state.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        snapshot.state.write_bytes(content[:size])
        with pytest.raises(DamagedSnapshotError):
            check_contents(2, snapshot.state, snapshot.weights)


def test_hdf5_is_measured_without_h5py(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, max_iter=2, snapshot_format="HDF5")
    train(job, runtime)
    (snapshot,) = list_snapshots(job.snapshots)
    monkeypatch.setitem(sys.modules, "h5py", None)
    check_contents(2, snapshot.state, snapshot.weights)
    content = snapshot.weights.read_bytes()
    for size, message in ((len(content) - 1, "cut off"), (10, "not an HDF5 file")):
        snapshot.weights.write_bytes(content[:size])
        with pytest.raises(DamagedSnapshotError, match=message):
            check_contents(2, snapshot.state, snapshot.weights)


def test_the_one_before_is_used(folder: Path) -> None:
    first, second, third = list_snapshots(folder)
    third.weights.write_bytes(third.weights.read_bytes()[:99])
    second.record.unlink()  # the supervisor was killed before it wrote it
    second.state.write_bytes(second.state.read_bytes()[:-3])
    found, notes = newest_whole(folder, 60)
    assert found == first
    assert notes == (
        "The snapshot of update 60 is not whole (tiny_iter_60.caffemodel is not the file that "
        "was recorded): tiny_iter_60.solverstate is now called tiny_iter_60.solverstate.corrupt.",
        "The snapshot of update 50 is not whole (tiny_iter_50.solverstate is cut off or "
        "damaged): tiny_iter_50.solverstate is now called tiny_iter_50.solverstate.corrupt.",
    )
    assert list_snapshots(folder) == [first]
    assert (folder / f"{third.weights.name}{CORRUPT}").is_file()
    assert (folder / f"{second.state.name}{CORRUPT}").is_file()


def test_one_without_a_record_is_taken_and_recorded(folder: Path) -> None:
    without_records(folder)
    found, notes = newest_whole(folder, 55)
    assert found is not None
    assert (found.update, notes) == (50, ())
    assert found.record.is_file()


def test_a_damaged_record_records_nothing(folder: Path) -> None:
    snapshot = list_snapshots(folder)[-1]
    snapshot.record.write_text("{")
    with pytest.raises(DamagedSnapshotError, match=r"solverstate\.json is damaged"):
        check(snapshot)


def test_none_at_all(tmp_path: Path) -> None:
    assert newest_whole(tmp_path, 9) == (None, ())


def test_a_snapshot_whose_file_is_gone(tmp_path: Path) -> None:
    lost = Snapshot(3, tmp_path / "a_iter_3.solverstate", tmp_path / "a_iter_3.caffemodel")
    with pytest.raises(DamagedSnapshotError, match="No such file"):
        confirm(lost)


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [
        (None, None, [5, 10, 15, 20, 25, 30, 33]),
        (1, None, [33]),
        (3, None, [25, 30, 33]),
        (99, None, [5, 10, 15, 20, 25, 30, 33]),
        (None, 10, [5, 10, 20, 30, 33]),
        (2, 12, [5, 15, 25, 30, 33]),
        (1, 1000, [5, 33]),
    ],
)
def test_what_is_kept(keep_last: int | None, keep_every: int | None, kept: list[int]) -> None:
    alike = [
        Snapshot(update, Path(f"x_iter_{update}.solverstate"), Path(f"x_iter_{update}.caffemodel"))
        for update in (5, 10, 15, 20, 25, 30, 33)
    ]
    gone = superfluous(alike, keep_last, keep_every)
    assert [each.update for each in alike if each not in gone] == kept


def test_what_was_kept_stays_as_more_come() -> None:
    """Pruning after each snapshot keeps the same ones as pruning once at the end."""
    alike = [
        Snapshot(n, Path(f"{n}.solverstate"), Path(f"{n}.caffemodel")) for n in range(3, 90, 7)
    ]
    kept: list[Snapshot] = []
    for snapshot in alike:
        kept.append(snapshot)
        gone = superfluous(kept, 2, 20)
        kept = [each for each in kept if each not in gone]
    gone = superfluous(alike, 2, 20)
    assert kept == [each for each in alike if each not in gone]


def test_prune_takes_the_record_along(folder: Path) -> None:
    prune(folder, 1, None)
    assert sorted(path.name for path in folder.iterdir()) == [
        "tiny_iter_60.caffemodel",
        "tiny_iter_60.solverstate",
        "tiny_iter_60.solverstate.json",
    ]


@pytest.mark.parametrize("steps", range(6))
def test_a_kill_amid_pruning_leaves_no_half(
    steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its changes, or behind the last; what is left never counts."""
    *_, second, third = list_snapshots(folder)
    prune(folder, 2, None)
    changes, left = 1 + len(second.files), steps  # the state is renamed, then every file deleted
    assert changes == 5
    with monkeypatch.context() as patch:
        for name in ("rename", "unlink"):
            change = getattr(Path, name)

            def counted(
                path: Path, *args: object, change: Callable[..., object] = change, **named: object
            ) -> object:
                nonlocal left
                if not left:
                    raise KeyboardInterrupt
                left -= 1
                return change(path, *args, **named)

            patch.setattr(Path, name, counted)
        with pytest.raises(KeyboardInterrupt) if steps < changes else nullcontext():
            prune(folder, 1, None)
    assert left == 0
    assert list_snapshots(folder) == ([third] if steps else [second, third])
    finish_pruning(folder)
    assert newest_whole(folder, 60) == (third, ())
    names = {path.name for path in folder.iterdir()}
    # Caffe has no moment of its random numbers to keep.
    assert names == {file.name for each in list_snapshots(folder) for file in each.files[:3]}


def test_a_kill_between_the_two_files_of_a_snapshot(folder: Path) -> None:
    """Caffe writes the weights first; older weights without a solverstate may be kept by hand."""
    first, second, third = list_snapshots(folder)
    for snapshot in (first, third):
        snapshot.state.unlink()
    assert newest_whole(folder, 55) == (second, ())
    found, notes = newest_whole(folder, 60)
    assert found == second
    assert notes == (
        "The snapshot of update 60 is not whole (there is no tiny_iter_60.solverstate): "
        "tiny_iter_60.caffemodel is now called tiny_iter_60.caffemodel.corrupt.",
    )
    assert first.weights.exists()
    assert not third.weights.exists()
