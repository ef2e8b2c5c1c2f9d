"""Several ranks train as one process does that has the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_batch.engines.caffe.snapshots import snapshot_of
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.ranks.group import pieces
from caffe_batch.engines.torch.snapshots import read_state, read_weights
from caffe_batch.prototxt import read_net
from tests.engines.torch.in_process import train_here, train_on
from tests.planned_jobs import CLASSES, write_lmdb

Array = np.ndarray[Any, np.dtype[Any]]

#: Crops, mirrors and a shuffled file draw for each record; BatchNorm isn't in it.
NET = f"""
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 crop_size: 4 mirror: true }}
  data_param {{ source: "data" backend: LMDB batch_size: %d }} }}
layer {{ name: "test" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 crop_size: 4 }}
  data_param {{ source: "data" backend: LMDB batch_size: 10 }} }}
layer {{ name: "rows" type: "HDF5Data" top: "more" include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "list" batch_size: %d shuffle: true }} }}
layer {{ name: "rows" type: "HDF5Data" top: "more" include {{ phase: TEST }}
  hdf5_data_param {{ source: "list" batch_size: 10 }} }}
layer {{ name: "flat" type: "InnerProduct" bottom: "data" top: "flat" inner_product_param {{
  num_output: 8 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "both" type: "Concat" bottom: "flat" bottom: "more" top: "both" }}
layer {{ name: "tanh" type: "TanH" bottom: "both" top: "both" }}
%s
layer {{ name: "ip" type: "InnerProduct" bottom: "both" top: "ip" inner_product_param {{
  num_output: {CLASSES} weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

DRAWING = """
layer { name: "norm" type: "BatchNorm" bottom: "both" top: "both" }
layer { name: "drop" type: "Dropout" bottom: "both" top: "both"
  dropout_param { dropout_ratio: 0.4 } }
"""

SOLVER = """
net: "%s" base_lr: 0.1 lr_policy: "fixed" iter_size: 2 %s
test_iter: 3 test_interval: 2 test_state { phase: TEST } display: 1
snapshot: 3 snapshot_prefix: "%s" max_iter: 6 random_seed: %d solver_mode: CPU
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_lmdb(tmp_path / "data")
    draws = np.random.default_rng(0)
    for number, rows in enumerate((13, 29)):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["more"] = draws.normal(size=(rows, 5))
    (tmp_path / "list").write_text("0.h5\n1.h5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(
    folder: Path, name: str, ranks: int, *, batch: int = 12, rule: str = "momentum: 0.9",
    drawing: str = "", seed: int = 3, **changes: Any,
) -> Snapshot:  # fmt: skip
    """Train to update 6 with a share of the batch on each rank; the last snapshot."""
    net, solver = folder / f"{name}.net", folder / f"{name}.prototxt"
    net.write_text(NET % (batch // ranks, batch // ranks, drawing))
    solver.write_text(SOLVER % (net, rule, name, seed))
    events = folder / f"{name}.events"
    if ranks == 1:
        assert train_here(solver, events=events, **changes) == 0
    else:
        assert train_on(ranks, solver, events=events, **changes) == [0] * ranks
    found = snapshot_of(folder / f"{name}_iter_6.solverstate")
    assert found is not None
    return found


def furthest(some: Sequence[Array], others: Sequence[Array]) -> float:
    """The largest relative error of an array."""
    return max(
        float(np.linalg.norm(one - other)) / max(float(np.linalg.norm(other)), 1e-12)
        for one, other in zip(some, others, strict=True)
    )


def weights_of(snapshot: Snapshot) -> list[Array]:
    layers = read_weights(snapshot.weights).values()
    return [values for blobs in layers for _, values in blobs.values()]


@pytest.mark.parametrize(
    ("ranks", "rule"),
    [
        (2, "momentum: 0.9 weight_decay: 0.01 clip_gradients: 0.5"),
        (3, 'type: "Adam" momentum: 0.9 delta: 0.01 weight_decay: 0.01 regularization_type: "L1"'),
    ],
)
def test_they_train_as_one_process(folder: Path, ranks: int, rule: str) -> None:
    one = run(folder, "one", 1, rule=rule)
    several = run(folder, "several", ranks, rule=rule)
    assert furthest(weights_of(several), weights_of(one)) < 1e-6
    histories = [read_state(each.state).history for each in (several, one)]
    assert furthest(*histories) < 1e-6


@pytest.mark.parametrize("seed", [-1, pytest.param(3, marks=pytest.mark.slow)])
def test_they_go_on_as_if_never_interrupted(folder: Path, seed: int) -> None:
    whole = run(folder, "whole", 2, drawing=DRAWING, seed=seed)
    again = run(
        folder, "again", 2, drawing=DRAWING, seed=seed,
        resume=str(folder / "whole_iter_3.solverstate"),
    )  # fmt: skip
    assert again.weights.read_bytes() == whole.weights.read_bytes()


def test_another_number_of_ranks_goes_on_with_the_same_records(folder: Path) -> None:
    one = run(folder, "one", 1)
    again = run(folder, "again", 2, resume=str(folder / "one_iter_3.solverstate"), samples=[72, 60])
    # Crops, mirrors and orders are those of the position; only what else draws can't go on.
    assert furthest(weights_of(again), weights_of(one)) < 1e-6


LAYERS = {
    "Data": """transform_param { crop_size: 4 mirror: true }
        data_param { source: "data" backend: LMDB batch_size: %d }""",
    "HDF5Data": """hdf5_data_param { source: "list" batch_size: %d shuffle: true }""",
    "ImageData": """transform_param { crop_size: 2 mirror: true }
        image_data_param { source: "images" batch_size: %d shuffle: true }""",
}


def rows_of(
    kind: str, size: int, batches: int, rank: int, ranks: int, skip: int = 0
) -> list[bytes]:
    """What a rank reads: each sample as it is given, its label with it."""
    path = Path(f"{kind}.prototxt")
    named = 'top: "more"' if kind == "HDF5Data" else 'top: "data" top: "label"'
    path.write_text(f'layer {{ name: "in" type: "{kind}" {named} {LAYERS[kind] % size} }}')
    (layer,) = read_net(path).layer
    opener = Opener(Draws(5), Path, rank, ranks)
    source = opener.open(layer, "TRAIN")
    source.skip(skip)
    found = []
    for _ in range(batches):
        tops = source.read().tops
        found += [b"".join(top[i].tobytes() for top in tops) for i in range(size)]
    opener.close()
    return found


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_each_reads_its_share_as_one_would(folder: Path, kind: str, ranks: int) -> None:
    image = pytest.importorskip("PIL.Image")
    draws = np.random.default_rng(1)
    for number in range(7):
        pixels = draws.integers(0, 256, (4, 5, 3), np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "images").write_text("".join(f"{n}.png {n}\n" for n in range(7)))
    whole = rows_of(kind, 6 * ranks, 20, 0, 1)
    for rank in range(ranks):
        own = rows_of(kind, 6, 19, rank, ranks, skip=6 * ranks)
        assert own == whole[6 * ranks + rank :: ranks]


def test_gradients_go_in_pieces() -> None:
    sizes, most = [3, 9, 1, 1, 30, 2], 40
    values = [torch.zeros(size) for size in sizes]
    found = list(pieces(values, most))
    assert [value for piece in found for value in piece] == values
    assert [[value.numel() for value in piece] for piece in found] == [[3], [9, 1], [1], [30], [2]]
    mixed = [torch.zeros(1), torch.zeros(1, dtype=torch.float64)]
    assert [len(piece) for piece in pieces(mixed, most)] == [1, 1]
