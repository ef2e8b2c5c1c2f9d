"""Several ranks train as one process does that has the whole batch."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from caffe_batch.engines.caffe.snapshots import snapshot_of
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.statistics import normalised_together
from caffe_batch.engines.torch.ranks.group import Alone, RankLostError, check_alike, pieces
from caffe_batch.engines.torch.ranks.launch import GRACE_S, JOIN_S
from caffe_batch.engines.torch.ranks.statuses import LOST_STATUS
from caffe_batch.engines.torch.snapshots import read_state, read_weights
from caffe_batch.errors import InputError
from caffe_batch.prototxt import read_net
from tests.engines.torch.in_process import start_rank, train_here, train_on
from tests.holding import PATIENCE_S
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
  num_output: 8 weight_filler {{ type: "xavier" }}
  bias_filler {{ type: "constant" value: 0.1 }} }} }}
layer {{ name: "both" type: "Concat" bottom: "flat" bottom: "more" top: "both" }}
layer {{ name: "tanh" type: "TanH" bottom: "both" top: "both" }}
%s
layer {{ name: "ip" type: "InnerProduct" bottom: "both" top: "ip" inner_product_param {{
  num_output: {CLASSES} weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_param {{ ignore_label: %d }} }}
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
    drawing: str = "", seed: int = 3, ignore: int = CLASSES, **changes: Any,
) -> Snapshot:  # fmt: skip
    """Train to update 6 with a share of the batch on each rank; the last snapshot."""
    net, solver = folder / f"{name}.net", folder / f"{name}.prototxt"
    net.write_text(NET % (batch // ranks, batch // ranks, drawing, ignore))
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
    events = [json.loads(line) for line in (folder / "several.events").read_text().splitlines()]
    times = [each["rank_s"] for each in events if each["event"] == "updated" and each["update"]]
    assert times
    assert all(len(each) == ranks and min(each) > 0 for each in times)
    assert furthest(weights_of(several), weights_of(one)) < 1e-6
    histories = [read_state(each.state).history for each in (several, one)]
    assert furthest(*histories) < 1e-6


NORMAL = """
layer { name: "norm" type: "BatchNorm" bottom: "both" top: "both" }
layer { name: "scale" type: "Scale" bottom: "both" top: "both" scale_param { bias_term: true } }
layer { name: "bend" type: "TanH" bottom: "both" top: "both" }
layer { name: "again" type: "BatchNorm" bottom: "both" top: "both" }
"""


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_they_count_together_is_that_of_one_process(folder: Path, ranks: int) -> None:
    """BatchNorm, its moving averages and its gradient; labels that count: 3 of 4 classes do."""
    one = run(folder, "one", 1, drawing=NORMAL, ignore=1)
    shared = ["batch_norm", "valid"]
    several = run(folder, "several", ranks, drawing=NORMAL, ignore=1, shared=shared)
    assert furthest(weights_of(several), weights_of(one)) < 1e-6
    gradients = [  # as one: a bias before a BatchNorm hardly has one of its own
        np.concatenate([each.ravel() for each in read_state(one_of.state).history])
        for one_of in (several, one)
    ]
    assert furthest(gradients[:1], gradients[1:]) < 1e-6
    for left in shared:  # each of the two makes a difference
        apart = run(folder, left, ranks, drawing=NORMAL, ignore=1, shared=[left])
        assert furthest(weights_of(apart), weights_of(one)) > 1e-4


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 2)])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_gradient_of_shared_statistics(shape: tuple[int, ...], scaled: bool) -> None:
    """In double precision, against torch's own BatchNorm over the samples of both ranks."""
    torch.manual_seed(1)
    double: Any = {"dtype": torch.float64}
    x = torch.randn(shape, **double, requires_grad=True)
    parameters = [torch.randn(5, **double, requires_grad=True) for _ in range(2 * scaled)]
    scale, bias = parameters or (None, None)
    weight = torch.randn(shape, **double)
    wanted = torch.batch_norm(x, scale, bias, None, None, True, 0.0, 1e-5, False)
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *parameters])
    sums: dict[int, list[Tensor]] = {0: [], 1: []}
    for _ in range(4):  # each round knows one more sum of the other rank
        found = [_half(x, scale, bias, weight, rank, sums) for rank in range(2)]
    outputs, means, variances, of_x, of_parameters = zip(*found, strict=True)
    assert torch.allclose(torch.cat(outputs), wanted)
    assert torch.allclose(torch.cat(of_x), gradients[0])
    for index, gradient in enumerate(gradients[1:]):  # the mean over ranks times their number
        assert torch.allclose(sum(each[index] for each in of_parameters), gradient)
    flat = x.detach().transpose(0, 1).reshape(5, -1)
    for mean, variance in zip(means, variances, strict=True):
        assert torch.allclose(mean, flat.mean(1))
        assert torch.allclose(variance, flat.var(1))


def _half(
    x: Tensor, scale: Tensor | None, bias: Tensor | None, weight: Tensor, rank: int,
    sums: dict[int, list[Tensor]],
) -> Any:  # fmt: skip
    """One rank's half of the samples; its own sums are noted, the other one's are those noted."""
    own: list[Tensor] = []

    class Rank:
        size = 2

        def add_up(self, values: Tensor) -> None:
            own.append(values.clone())
            place = len(own) - 1
            others = sums[1 - rank]
            values += others[place] if place < len(others) else torch.zeros_like(values)

    part = slice(0, 2) if rank == 0 else slice(2, None)  # of different sizes
    samples = x.detach()[part].requires_grad_()
    mean, variance = torch.zeros(5, dtype=x.dtype), torch.zeros(5, dtype=x.dtype)
    y = normalised_together(samples, scale, bias, mean, variance, 1e-5, Rank())
    parameters = [each for each in (scale, bias) if each is not None]
    of_x, *others = torch.autograd.grad((y * weight[part]).sum(), [samples, *parameters])
    sums[rank] = own
    return y.detach(), mean, variance, of_x, others


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


def solver_named(folder: Path, name: str, text: str = NET) -> Path:
    """A solver of two ranks and its net."""
    net, solver = folder / f"{name}.net", folder / f"{name}.prototxt"
    net.write_text(text % (6, 6, "", CLASSES))
    solver.write_text(SOLVER % (net, "", name, 3))
    return solver


def statuses_and_words(
    folder: Path, solvers: Sequence[Path], **changes: Any
) -> tuple[list[int | None], list[str]]:
    """How ranks with a solver each end, and what each of them writes."""
    begun = [
        start_rank(
            rank, 2, folder / "meeting", solver, folder / "events", said=folder / f"{rank}.said",
            **changes,
        )
        for rank, solver in enumerate(solvers)
    ]  # fmt: skip
    for process in begun:
        process.join()
    words = [(folder / f"{rank}.said").read_text() for rank in range(len(solvers))]
    return [process.exitcode for process in begun], words


def test_another_recipe_is_refused_by_all(folder: Path) -> None:
    solvers = [solver_named(folder, "one"), solver_named(folder, "other")]
    text = solvers[0].read_text().replace("one.net", "other.net")
    solvers[1].write_text(text.replace("base_lr: 0.1", "base_lr: 0.2"))
    statuses, (first, second) = statuses_and_words(folder, solvers)
    assert statuses == [1, LOST_STATUS]
    assert re.search(r"F.*rank 1 has the recipe \w{12}, and rank 0 \w{12}$", first, re.MULTILINE)
    assert re.search(r"W.*rank 1 has the recipe", second)
    assert not list(folder.glob("*iter*"))


def test_another_torch_is_refused_by_all() -> None:
    ranks = Elsewhere([{"torch": "2.13.0"}, {"torch": "2.4.1"}, {"torch": "2.13.0"}])
    with pytest.raises(InputError, match=r"^rank 1 has torch 2\.4\.1, and rank 0 2\.13\.0\n"):
        check_alike(ranks, {"torch": "2.13.0"})
    ranks.speaks = False
    with pytest.raises(RankLostError, match="rank 1 has torch"):
        check_alike(ranks, {"torch": "2.13.0"})
    check_alike(Elsewhere([{"torch": "2.13.0"}] * 3), {"torch": "2.13.0"})


class Elsewhere(Alone):
    """The first of several ranks, of which it is known what they have."""

    def __init__(self, facts: Sequence[dict[str, str]]) -> None:
        self._facts, self.size = facts, len(facts)

    def gather(self, value: Any) -> list[Any]:
        assert value == self._facts[0]
        return list(self._facts)


def test_data_that_one_rank_lacks_is_told_by_the_first(folder: Path) -> None:
    """As where a machine of several doesn't have it: nothing is trained."""
    (folder / "elsewhere").mkdir()
    solver = solver_named(folder, "one")
    begun = [
        start_rank(
            rank, 2, folder / "meeting", solver, folder / "events", said=folder / f"{rank}.said",
            place={"local_rank": 0}, directory=folder if rank == 0 else folder / "elsewhere",
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in begun:
        process.join()
    first, second = [(folder / f"{rank}.said").read_text() for rank in range(2)]
    assert [process.exitcode for process in begun] == [1, 1]
    assert re.search(r"F.*] rank 1 can't begin: layer 'data': .*data", first)
    assert re.search(r"F.*] layer 'data': .*data", second)


def test_ranks_that_don_t_come_together_end(folder: Path) -> None:
    begun = time.monotonic()
    statuses, (said,) = statuses_and_words(
        folder, [solver_named(folder, "one")], place={"join_s": 1.0}
    )
    assert statuses == [LOST_STATUS]
    assert re.search("W.*the ranks didn't come together: ", said)
    assert time.monotonic() - begun < PATIENCE_S
    assert JOIN_S + GRACE_S < 60  # what a run has
