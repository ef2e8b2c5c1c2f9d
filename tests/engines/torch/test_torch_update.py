"""The update against real Caffe: gradients, weights, history and loss of four updates, 1e-5."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.update import RULES, Update
from caffe_batch.errors import InputError
from caffe_batch.layers import BUILT_IN
from caffe_batch.net import build
from caffe_batch.net.convert import convert
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.on_caffe import Array, Pycaffe, worst

UPDATES = 4
TOLERANCE = 1e-5

CHILD = """
import json, os, resource, sys
import caffe
import numpy as np
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder, number, updates = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
feeds = np.load(folder + "/feeds.npz")

def run(i):
    solver = caffe.get_solver("%s/%d.prototxt" % (folder, i))
    net, found, done = solver.net, {}, [0, 0]
    def blobs():
        return [("%s/%d" % (layer, j), blob) for layer, all in net.params.items()
                for j, blob in enumerate(all)]
    def feed(layer):
        if layer == 0:
            net.blobs["x"].data[...] = feeds["x"][done[1]]
            net.blobs["y"].data[...] = feeds["y"][done[1]]
            done[1] += 1
    def after(layer):
        if layer == 0:
            for key, blob in blobs():
                found["gradient/%d/%s" % (done[0], key)] = np.array(blob.diff)
    def loss(layer):
        if layer == len(net.layers) - 1:
            found["loss/%d" % (done[1] - 1)] = np.array(net.blobs["loss"].data)
    net.after_forward(feed)
    net.after_forward(loss)
    net.after_backward(after)
    for key, blob in blobs():
        found["weight/-1/%s" % key] = np.array(blob.data)
    for n in range(updates):
        done[0] = n
        solver.step(1)
        for key, blob in blobs():
            found["weight/%d/%s" % (n, key)] = np.array(blob.data)
    solver.snapshot()
    np.savez("%s/%d.out.npz" % (folder, i), **found)

for i in range(number):
    if os.fork() == 0:
        os.dup2(os.open("%s/%d.log" % (folder, i), os.O_WRONLY | os.O_CREAT, 0o600), 2)
        status = 1
        try:
            run(i)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(status)
    os.wait()
"""

#: Smooth, so that rounding stays rounding. The layers have all that concerns an update: statistics
#: (of data, so that no bias lies before them), multipliers, shared parameters, a parameter that no
#: loss depends on, a frozen layer.
NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
        input_param { shape { dim: 11 dim: 5 } shape { dim: 11 dim: 3 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "n" }
layer { name: "first" type: "InnerProduct" bottom: "n" top: "a" %(frozen)s
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "t" type: "TanH" bottom: "a" top: "a" }
layer { name: "s" type: "Scale" bottom: "a" top: "s" param { lr_mult: 2 decay_mult: 0 }
        param { lr_mult: 0.5 decay_mult: 2 } scale_param { bias_term: true } }
layer { name: "m" type: "InnerProduct" bottom: "s" top: "m" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "u" type: "Sigmoid" bottom: "m" top: "m" }
layer { name: "again" type: "InnerProduct" bottom: "m" top: "o"
        param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "last" type: "InnerProduct" bottom: "o" top: "p"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "idle" type: "InnerProduct" bottom: "o" top: "q"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "none" type: "Silence" bottom: "q" }
layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }
"""

RATES = (
    'lr_policy: "fixed"',
    'lr_policy: "step" gamma: 0.5 stepsize: 2',
    'lr_policy: "exp" gamma: 0.9',
    'lr_policy: "inv" gamma: 0.1 power: 0.75',
    'lr_policy: "multistep" gamma: 0.5 stepvalue: 1 stepvalue: 1 stepvalue: 3',
    'lr_policy: "poly" power: 1.5',
    'lr_policy: "sigmoid" gamma: 0.5 stepsize: 2',
)
MOMENTA = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.8",
    "AdaGrad": "delta: 1e-3",
    "RMSProp": "rms_decay: 0.9 delta: 1e-3",
    "AdaDelta": "momentum: 0.95 delta: 1e-5",
    "Adam": "momentum: 0.9 momentum2: 0.99 delta: 1e-4",
}


@dataclass(frozen=True)
class Case:
    """A solver, as text, and whether a layer of its net is frozen."""

    name: str
    solver: str
    frozen: bool

    def message(self) -> caffe_pb2.SolverParameter:
        return text_format.Parse(self.solver, caffe_pb2.SolverParameter())

    def net(self) -> str:
        frozen = "param { lr_mult: 0 } param { lr_mult: 0 decay_mult: 3 }" if self.frozen else ""
        return NET % {"frozen": frozen}


def _cases() -> Iterator[Case]:
    rates = cycle(RATES)
    for kind, decay, clip, passes, frozen in product(
        MOMENTA, ("L1", "L2"), (False, True), (1, 3), (False, True)
    ):
        rate = next(rates)
        base = "1" if kind == "AdaDelta" else "0.05"
        solver = (
            f'type: "{kind}" base_lr: {base} {rate} {MOMENTA[kind]} weight_decay: 0.05 '
            f'regularization_type: "{decay}" iter_size: {passes} max_iter: 20 '
        )
        if clip:
            solver += "clip_gradients: 0.3 "
        words = [kind, decay, "clip"] if clip else [kind, decay]
        words += [f"{passes} passes"] + ["frozen"] * frozen + [rate.split('"')[1]]
        yield Case(" ".join(words), solver, frozen)
    for kind in ("SGD", "Nesterov"):
        solver = f'type: "{kind}" base_lr: 0.05 lr_policy: "fixed" weight_decay: 0.05 max_iter: 20 '
        yield Case(f"{kind} without momentum", solver, frozen=False)
    yield Case("Adam without decay", f'type: "Adam" base_lr: 0.05 lr_policy: "fixed" '
               f'{MOMENTA["Adam"]} max_iter: 20 ', frozen=False)  # fmt: skip


CASES = list(_cases())


@dataclass(frozen=True)
class Answer:
    """Arrays by ``kind/update/layer/index``, and the history after the last update."""

    arrays: dict[str, Array]
    history: list[Array]

    def of(self, kind: str, update: int) -> dict[str, Array]:
        prefix = f"{kind}/{update}/"
        keys = [key for key in self.arrays if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.arrays[key] for key in keys}


@pytest.fixture(scope="module")
def feeds() -> dict[str, Array]:
    draw = np.random.default_rng(5)
    passes = 3 * UPDATES
    return {
        "x": draw.normal(size=(passes, 11, 5)).astype(np.float32),
        "y": draw.normal(size=(passes, 11, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def answers(
    pycaffe: Pycaffe, tmp_path_factory: pytest.TempPathFactory, feeds: dict[str, Array]
) -> list[Answer]:
    folder = tmp_path_factory.mktemp("updates")
    np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]
    for i, case in enumerate(CASES):
        (folder / f"{i}.net").write_text(case.net())
        (folder / f"{i}.prototxt").write_text(
            f"{case.solver} net: {json.dumps(str(folder / f'{i}.net'))} snapshot_prefix: "
            f"{json.dumps(str(folder / str(i)))} solver_mode: CPU random_seed: 7 display: 0\n"
        )
    pycaffe(CHILD, str(folder), str(len(CASES)), str(UPDATES), cwd=folder)
    return [_answer(folder, i) for i in range(len(CASES))]


def _answer(folder: Path, i: int) -> Answer:
    with np.load(folder / f"{i}.out.npz") as file:
        arrays = dict(file)
    state = caffe_pb2.SolverState.FromString(
        (folder / f"{i}_iter_{UPDATES}.solverstate").read_bytes()
    )
    history = [
        np.array(blob.data, np.float32).reshape(tuple(blob.shape.dim)) for blob in state.history
    ]
    return Answer(arrays, history)


def test_every_solver_type_is_tried() -> None:
    assert set(RULES) == set(MOMENTA)


@pytest.mark.parametrize("fused", [False, True], ids=["reference", "fused"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_four_updates_give_what_caffe_gives(
    answers: Sequence[Answer], feeds: dict[str, Array], number: int, fused: bool
) -> None:
    case, theirs = CASES[number], answers[number]
    message = text_format.Parse(case.net(), caffe_pb2.NetParameter())
    graph = build([convert(layer, BUILT_IN[layer.type]) for layer in message.layer], phase="TRAIN")
    net = TorchNet(graph, message.layer)
    start = theirs.of("weight", -1)
    names = [f"{param.layer}/{param.index}" for param in net.params]
    with torch.no_grad():
        for name, param in zip(names, net.params, strict=True):
            param.value.copy_(torch.from_numpy(start[name]))
    solver = case.message()
    update = Update(solver, net.params, fused=fused)
    n = 0
    for done in range(UPDATES):
        net.clear_gradients()
        for _ in range(solver.iter_size):
            fed = {name: torch.from_numpy(array[n]) for name, array in feeds.items()}
            passed = net.forward(fed)
            net.backward(passed)
            assert float(passed.loss) == pytest.approx(float(theirs.arrays[f"loss/{n}"]), rel=1e-5)
            n += 1
        gradients = {
            name: (
                torch.zeros_like(p.value) if p.value.grad is None else p.value.grad
            ).numpy().copy()
            for name, p in zip(names, net.params, strict=True)
        }  # fmt: skip
        assert worst(theirs.of("gradient", done), gradients) < (TOLERANCE, "z")
        update.apply(done)
        weights = {
            name: p.value.detach().numpy().copy() for name, p in zip(names, net.params, strict=True)
        }
        assert worst(theirs.of("weight", done), weights) < (TOLERANCE, "z")
    ours = {str(i): blob.numpy() for i, blob in enumerate(update.history)}
    expected = {str(i): blob for i, blob in enumerate(theirs.history)}
    assert len(ours) == len(expected)
    assert worst(expected, ours) < (TOLERANCE, "z")


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ('type: "Adagrad" lr_policy: "fixed"', "no solver type 'Adagrad'"),
        ('regularization_type: "L3" weight_decay: 1', "no regularization_type 'L3'"),
    ],
)
def test_what_caffe_hasnt_is_refused(solver: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Update(text_format.Parse(solver, caffe_pb2.SolverParameter()), [])
