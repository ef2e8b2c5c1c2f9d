"""A run that goes on from a snapshot is, on the CPU, the one that never stopped: to the bit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_batch.engines.caffe.snapshots import snapshot_of
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.worker.moments import read_moment
from caffe_batch.engines.torch.worker.solving import NotWrittenError, Training
from caffe_batch.engines.torch.worker.train import DIVERGED_STATUS
from tests.engines.torch.in_process import train_here
from tests.planned_jobs import CLASSES, HEIGHT, RECORDS, WIDTH, write_lmdb

#: Everything that draws: crops, mirrors, dropout, a shuffled file, noise that is drawn anew; and
#: averages that every pass moves. No update ends with an epoch.
NET = f"""
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 crop_size: 4 mirror: true }}
  data_param {{ source: "data" backend: LMDB batch_size: 6 }} }}
layer {{ name: "test" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 crop_size: 4 }}
  data_param {{ source: "data" backend: LMDB batch_size: 10 }} }}
layer {{ name: "rows" type: "HDF5Data" top: "more" include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "list" batch_size: 6 shuffle: true }} }}
layer {{ name: "rows" type: "HDF5Data" top: "more" include {{ phase: TEST }}
  hdf5_data_param {{ source: "list" batch_size: 10 }} }}
layer {{ name: "noise" type: "DummyData" top: "noise" dummy_data_param {{
  shape {{ dim: 1 dim: 8 }} data_filler {{ type: "uniform" min: -1 max: 1 }} }} }}
layer {{ name: "flat" type: "InnerProduct" bottom: "data" top: "flat" inner_product_param {{
  num_output: 8 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "both" type: "Concat" bottom: "flat" bottom: "more" top: "both" }}
layer {{ name: "norm" type: "BatchNorm" bottom: "both" top: "norm" }}
layer {{ name: "drop" type: "Dropout" bottom: "norm" top: "norm"
  dropout_param {{ dropout_ratio: 0.4 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "norm" top: "ip" inner_product_param {{
  num_output: {CLASSES} weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
layer {{ name: "silence" type: "Silence" bottom: "noise" }}
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 iter_size: 3
test_iter: 3 test_interval: 2 test_state { phase: TEST }
snapshot: %d snapshot_prefix: "%s" max_iter: %d random_seed: %d solver_mode: CPU
"""


def run(
    folder: Path, name: str, last: int, resume: Path | None = None, every: int = 4, seed: int = 3
) -> Snapshot:
    """Train to update ``last``; returns the last snapshot."""
    solver = folder / f"{name}.prototxt"
    solver.write_text(SOLVER % (every, name, last, seed))
    status = train_here(
        solver, resume=str(resume) if resume else None, samples=[18 * every, 60],
        events=folder / f"{name}.events",
    )  # fmt: skip
    assert status == 0
    found = snapshot_of(folder / f"{name}_iter_{last}.solverstate")
    assert found is not None
    return found


def told(folder: Path, name: str) -> list[str]:
    """What a run has said when its nets were built."""
    lines = (folder / f"{name}.events").read_text().splitlines()
    (built,) = [event for event in map(json.loads, lines) if event["event"] == "built"]
    choices: list[str] = built["choices"]
    return choices


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_lmdb(tmp_path / "data")
    draws = np.random.default_rng(0)
    for number, rows in enumerate((13, 29)):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["more"] = draws.normal(size=(rows, 5))
    (tmp_path / "list").write_text("0.h5\n1.h5\n")
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    assert HEIGHT >= 4 <= WIDTH
    assert RECORDS % 6
    return tmp_path


@pytest.mark.parametrize("seed", [3, -1])
def test_with_dropout_and_augmentation(folder: Path, seed: int) -> None:
    whole = run(folder, "whole", 8, seed=seed)
    middle = snapshot_of(folder / "whole_iter_4.solverstate")
    assert middle is not None
    again = run(folder, "again", 8, middle.state, seed=seed)
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    assert told(folder, "again") == []
    # The name of the weights is in the solverstate.
    name = b"again_iter_8", b"whole_iter_8"
    assert again.state.read_bytes().replace(*name) == whole.state.read_bytes()


def test_without_its_moment_it_goes_on_at_the_record(folder: Path) -> None:
    """As after a stretch on Caffe: the same samples, but not the same dropout."""
    whole = run(folder, "whole", 8)
    middle = snapshot_of(folder / "whole_iter_4.solverstate")
    assert middle is not None
    middle.moment.unlink()
    again = run(folder, "again", 8, middle.state)
    assert again.weights.read_bytes() != whole.weights.read_bytes()
    assert told(folder, "again") == [
        "Random numbers are drawn anew, as the snapshot was taken by another engine, or without "
        "their state: 'data', 'noise', 'drop'."
    ]
    moments = read_moment(whole), read_moment(again)
    samples = [each.facts["samples"] for each in moments if each]
    assert len(samples) == 2
    assert samples[0] == samples[1]


def test_a_moment_of_other_weights_is_none(folder: Path) -> None:
    snapshot = run(folder, "whole", 4)
    assert read_moment(snapshot) is not None
    weights = snapshot.weights.read_bytes()
    snapshot.weights.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert read_moment(snapshot) is None
    snapshot.weights.write_bytes(weights)
    whole = snapshot.moment.read_bytes()
    for damaged in (b"", whole[:100], whole[:-100]):
        snapshot.moment.write_bytes(damaged)
        assert read_moment(snapshot) is None


def test_a_moment_that_was_cut_short_is_told(folder: Path) -> None:
    run(folder, "whole", 8)
    middle = snapshot_of(folder / "whole_iter_4.solverstate")
    assert middle is not None
    middle.moment.write_bytes(middle.moment.read_bytes()[:-100])
    run(folder, "again", 8, middle.state)
    (choice,) = told(folder, "again")
    assert choice.startswith(
        "Random numbers are drawn anew, as whole_iter_4.solverstate.moment is damaged, or belongs "
        "to other weights or another net: "
    )


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", ["caffemodel", "solverstate", "moment"])
def test_a_disk_that_is_full_leaves_no_snapshot(folder: Path, kind: str, form: str) -> None:
    """Whichever of its files it is that doesn't fit; the one before it stands."""
    run(folder, "full", 4)
    end = ".h5" if form == "HDF5" else ""
    state = folder / f"full_iter_8.solverstate{end}"
    name = f"{state.name}.moment" if kind == "moment" else f"full_iter_8.{kind}{end}"
    (folder / f".{name}.tmp").symlink_to("/dev/full")
    solver = folder / "full.prototxt"
    solver.write_text(SOLVER % (4, "full", 8, 3) + f"snapshot_format: {form}")
    middle = snapshot_of(folder / "full_iter_4.solverstate")
    assert middle is not None
    with pytest.raises(NotWrittenError) as failure:
        train_here(solver, resume=str(middle.state), samples=[18 * 4, 60])
    assert failure.value.message == (
        f"snapshot not written: {folder / name}: No space left on device"
    )
    assert not state.exists()
    assert not (folder / f".{name}.tmp").is_symlink()
    assert read_moment(middle) is not None


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_train_too(folder: Path, precision: str) -> None:
    """On the CPU TF32 is float32."""
    exact = run(folder, "exact", 4)
    solver = folder / "exact.prototxt"
    solver.write_text(solver.read_text().replace('"exact"', '"other"'))
    assert train_here(solver, precision=precision) == 0
    other = (folder / "other_iter_4.caffemodel").read_bytes()
    assert (other == exact.weights.read_bytes()) == (precision == "tf32")


@pytest.mark.parametrize("how", ["diverged", "failed"])
def test_no_thread_outlives_a_training(
    how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that still reads can keep Python from ending, whatever ended the training."""
    solver = folder / "solver.prototxt"
    solver.write_text(SOLVER % (4, "ended", 8, 3))
    before = set(threading.enumerate())
    if how == "diverged":
        assert train_here(solver, max_loss=1e-9) == DIVERGED_STATUS
    else:

        def fail(_: Training, loss: float) -> None:
            assert set(threading.enumerate()) > before
            raise SystemExit("no labels here")

        monkeypatch.setattr(Training, "_take_in", fail)
        with pytest.raises(SystemExit):
            train_here(solver)
    assert set(threading.enumerate()) == before
