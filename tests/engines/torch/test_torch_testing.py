"""Test nets: they share the train net's weights, and scores are averaged as Caffe averages them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.testing import score
from caffe_batch.engines.torch.update import Update
from caffe_batch.errors import InputError
from caffe_batch.net import NetFile, Sources
from caffe_batch.net.filtering import net_state
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.on_caffe import Pycaffe, Trial

#: One net for three uses: the train net, and two test nets by their stage.
NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
        input_param { shape { dim: 11 dim: 5 } shape { dim: 11 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "n" }
layer { name: "a" type: "InnerProduct" bottom: "n" top: "a" param { name: "w" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "t" type: "TanH" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "p" type: "InnerProduct" bottom: "b" top: "p"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "score" type: "Accuracy" bottom: "p" bottom: "y" top: "share" top: "by class"
        include { phase: TEST stage: "scores" } }
layer { name: "extra" type: "Reduction" bottom: "b" top: "an extra loss" loss_weight: 0.3
        reduction_param { operation: SUMSQ } include { phase: TEST not_stage: "scores" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "p" bottom: "y" top: "loss" loss_weight: 2 }
"""

SOLVER = """
type: "SGD" base_lr: 0.5 lr_policy: "fixed" momentum: 0.9 max_iter: 2 random_seed: 3 display: 0
solver_mode: CPU test_interval: 2 test_iter: 3 test_iter: 5 test_compute_loss: true
test_state { stage: "scores" } test_state { } test_initialization: false snapshot_after_train: false
"""

CHILD = """
import caffe
import numpy as np
solver = caffe.get_solver("solver.prototxt")
feeds = np.load("feeds.npz")
def feeder(net, kind):
    done = [0]
    def feed(layer):
        if layer == 0:
            for name in "xy":
                net.blobs[name].data[...] = feeds[kind + name][done[0]]
            done[0] += 1
    net.after_forward(feed)
feeder(solver.net, "train")
for net in solver.test_nets:
    feeder(net, "test")
np.savez("start.npz", **{"%s/%d" % (layer, i): np.array(blob.data)
    for layer, blobs in solver.net.params.items() for i, blob in enumerate(blobs)})
solver.solve()
"""


def net_of(phase: str, state: caffe_pb2.NetState | None = None) -> NetFile:
    message = text_format.Parse(NET, caffe_pb2.NetParameter())
    return NetFile(message, None, net_state("TRAIN" if phase == "TRAIN" else "TEST", message,
                                            state or caffe_pb2.NetState()))  # fmt: skip


def made(file: NetFile, trained: TorchNet | None = None) -> TorchNet:
    net = file.build(file.layers(Sources()))
    return TorchNet(net, [layer for _, layer in file.selected()], trained=trained)


def test_two_test_nets_score_as_in_caffe(pycaffe: Pycaffe, tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    feeds = {
        f"{kind}{name}": (
            draw.normal(size=(5, 11, 5)) if name == "x" else draw.integers(3, size=(5, 11))
        ).astype(np.float32)
        for kind in ("train", "test") for name in "xy"
    }  # fmt: skip
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(f"{SOLVER} net: {json.dumps('net.prototxt')}")
    log = _log(pycaffe, tmp_path)

    solver = text_format.Parse(SOLVER, caffe_pb2.SolverParameter())
    train = made(net_of("TRAIN"))
    with np.load(tmp_path / "start.npz") as start, torch.no_grad():
        for param in train.params:
            param.value.copy_(torch.from_numpy(start[f"{param.layer}/{param.index}"]))
    tests = [made(net_of("TEST", state), train) for state in solver.test_state]
    update = Update(solver, train.params)
    for done in range(2):
        train.clear_gradients()
        train.backward(train.forward(_fed(feeds, "train", done)))
        update.apply(done)
    for number, net in enumerate(tests):
        passes = iter(range(5))
        found = score(net, lambda: _fed(feeds, "test", next(passes)),  # noqa: B023
                      solver.test_iter[number], compute_loss=True)  # fmt: skip
        assert found is not None
        outputs, loss = log[number]
        assert [name for name, _ in found.outputs] == [name for name, _ in outputs]
        assert [value for _, value in found.outputs] == pytest.approx(
            [value for _, value in outputs], rel=1e-5
        )
        assert found.loss == pytest.approx(loss, rel=1e-5)


def _fed(feeds: dict[str, np.ndarray], kind: str, n: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(feeds[kind + name][n]) for name in "xy"}


def _log(pycaffe: Pycaffe, folder: Path) -> list[tuple[list[tuple[str, float]], float]]:
    """By test net: the outputs and the loss that Caffe has logged."""
    quiet = f"import os\nos.dup2(os.open('log', os.O_WRONLY | os.O_CREAT, 0o600), 2)\n{CHILD}"
    pycaffe(quiet, cwd=folder)
    text = (folder / "log").read_text()
    found = []
    for part in re.split(r"Testing net \(#\d\)", text)[1:]:
        outputs = re.findall(r"Test net output #\d+: (.*?) = (\S+)", part)
        (loss,) = re.findall(r"Test loss: (\S+)", part)
        found.append(([(name, float(value)) for name, value in outputs], float(loss)))
    return found


def test_weights_are_the_train_nets() -> None:
    train = made(net_of("TRAIN"))
    test = made(net_of("TEST"), train)
    with torch.no_grad():
        for param in train.params:
            param.value.add_(1)
    theirs = {entry.name: entry.blobs for entry in train.layer_blobs}
    for entry in test.layer_blobs:
        for ours, blob in zip(entry.blobs, theirs.get(entry.name, ()), strict=entry.blobs != ()):
            assert ours.data_ptr() == blob.data_ptr()


def test_other_shapes_cant_be_shared() -> None:
    train = made(net_of("TRAIN"))
    other = Trial(NET.replace("num_output: 3", "num_output: 4"))
    with pytest.raises(InputError, match=r"layer 'p' of a test net has parameters \(\(4, 5\), "):
        TorchNet(other.net(), other.message().layer, trained=train)


def test_a_test_can_be_stopped() -> None:
    net = made(net_of("TEST"))
    answers = iter([False, True])
    fed = {"x": torch.zeros(11, 5), "y": torch.zeros(11)}
    assert score(net, lambda: fed, 3, stop=lambda: next(answers)) is None
