"""Recurrent layers: shapes judged by real Caffe, and the unrolled net beside its log."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from caffe_batch.errors import ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Inner, Shape, Site
from caffe_batch.layers.recurrent import RecurrentSettings
from caffe_batch.net.graph import Net, build
from tests.layers.caffe_judge import Built, caffe_builds, layer_text, one_layer_net, we_build

X, CONT, STATIC = (3, 2, 5, 7), (3, 2), (2, 13)
STATE = (1, 2, 11)
SIZE = "recurrent_param { num_output: 11 }"
EXPOSED = "recurrent_param { num_output: 11 expose_hidden: true }"


def net(layer_type: str, settings_text: str, *bottoms: Shape, tops: int = 1) -> str:
    layer = layer_text(layer_type, settings_text, bottoms=len(bottoms), tops=tops)
    return one_layer_net(layer, *bottoms)


UNROLLED: list[tuple[str, tuple[Shape, ...], int]] = [
    # type, bottoms, tops; several tops: with the hidden states exposed
    ("LSTM", (X, CONT), 1),
    ("LSTM", ((1, 2, 5), (1, 2)), 1),
    ("LSTM", (X, CONT, STATIC), 1),
    ("LSTM", (X, CONT, (2, 13, 17)), 1),
    ("LSTM", (X, CONT, STATE, STATE), 3),
    ("LSTM", (X, CONT, STATIC, STATE, STATE), 3),
    ("RNN", (X, CONT), 1),
    ("RNN", ((1, 2, 5), (1, 2)), 1),
    ("RNN", (X, CONT, STATIC), 1),
    ("RNN", (X, CONT, STATE), 2),
    ("RNN", (X, CONT, STATIC, STATE), 2),
]

ACCEPTED = [
    *(net(kind, SIZE if tops == 1 else EXPOSED, *bottoms, tops=tops)
      for kind, bottoms, tops in UNROLLED),
    net("LSTMUnit", "", (1, 5, 3), (1, 5, 12), (1, 5), tops=2),
]  # fmt: skip

REFUSED = [
    net("LSTM", "", X, CONT),
    net("LSTM", SIZE, (3, 2), CONT),
    net("LSTM", SIZE, (3,), CONT),
    net("LSTM", SIZE, (0, 2, 5), (0, 2)),
    net("LSTM", SIZE, (3, 0, 5), (3, 0)),
    net("LSTM", SIZE, X, (2, 3)),
    net("LSTM", SIZE, X, (3, 2, 1)),
    net("LSTM", SIZE, X),
    net("LSTM", SIZE, X, CONT, (3, 13)),
    net("LSTM", SIZE, X, CONT, (2,)),
    net("LSTM", SIZE, X, CONT, tops=2),
    net("LSTM", SIZE, X, CONT, STATE, STATE, tops=3),
    net("LSTM", EXPOSED, X, CONT),
    net("LSTM", EXPOSED, X, CONT, STATE, STATE, tops=1),
    net("LSTM", EXPOSED, X, CONT, STATE, (1, 2, 7), tops=3),
    net("LSTM", EXPOSED, X, CONT, STATE, STATE, STATIC, tops=3),
    net("RNN", SIZE, X, CONT, STATE, STATE),
    net("RNN", EXPOSED, X, CONT, (2, 11), tops=2),
    net("LSTMUnit", "", (1, 5, 3), (1, 5, 11), (1, 5), tops=2),
    net("LSTMUnit", "", (1, 5, 3), (1, 5, 12), (1, 7), tops=2),
    net("LSTMUnit", "", (2, 5, 3), (2, 5, 12), (2, 5), tops=2),
    net("LSTMUnit", "", (1, 5, 3), (1, 5, 12), (1, 5, 1), tops=2),
    net("LSTMUnit", "", (1, 5), (1, 5, 12), (1, 5), tops=2),
]


@pytest.fixture(scope="module")
def verdicts(pycaffe: Callable[..., str]) -> dict[str, Built | None]:
    nets = ACCEPTED + REFUSED
    return dict(zip(nets, caffe_builds(pycaffe, nets), strict=True))


@pytest.mark.parametrize("text", ACCEPTED)
def test_shapes_and_parameters_are_caffes(text: str, verdicts: dict[str, Built | None]) -> None:
    assert verdicts[text] is not None
    assert we_build(text) == verdicts[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_caffe_refuses_is_refused(text: str, verdicts: dict[str, Built | None]) -> None:
    assert verdicts[text] is None
    assert we_build(text) is None


LOG = """
import os, sys
os.environ["GLOG_minloglevel"] = "0"
os.dup2(1, 2)
import caffe
caffe.Net(sys.argv[1], caffe.TRAIN)
"""


@dataclass
class Line:
    """What Caffe's log says of one layer of the unrolled net."""

    name: str
    bottoms: list[str] = field(default_factory=list)
    tops: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    backward: bool | None = None


def read_log(log: str) -> tuple[list[Line], int]:
    """The layers of the inner net as the log has them, and its "Memory required for data"."""
    lines: list[Line] = []
    backward: list[bool] = []  # from the last layer to the first
    memory = 0
    inside = log.split("assuming input batch contains", 1)[1].split("Adding parameter 0", 1)[0]
    for text in inside.splitlines():
        message = text.partition("] ")[2]
        last_word = message.rpartition(" ")[2]
        if message.startswith("Creating Layer "):
            lines.append(Line(message.removeprefix("Creating Layer ")))
        elif " <- " in message:
            lines[-1].bottoms.append(last_word)
        elif " -> " in message:
            lines[-1].tops.append(last_word)
        elif message.startswith("Top shape: "):
            lines[-1].shapes.append(tuple(map(int, re.findall(r"\d+(?= )", message))))
        elif message.startswith("Memory required for data"):
            memory = int(last_word)
        elif message.endswith("backward computation."):
            backward.append("does not need" not in message)
    for line, need in zip(reversed(lines), backward, strict=True):
        line.backward = need
    return lines, memory


def unrolled(inner: Inner) -> Net:
    """The inner net with the names that Caffe gives its layers inside a layer ``l``."""
    run = len(inner.layers) - inner.idle
    named = [replace(layer, name=f"l_{layer.name}") for layer in inner.layers[:run]]
    return build([*named, *inner.layers[run:]], phase="TEST")


@pytest.mark.parametrize(("kind", "bottoms", "tops"), UNROLLED)
def test_the_unrolled_net_is_the_one_that_caffe_logs(
    kind: str, bottoms: tuple[Shape, ...], tops: int, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net(kind, SIZE if tops == 1 else EXPOSED, *bottoms, tops=tops))
    lines, memory = read_log(pycaffe(LOG, str(path)))
    rule = BUILT_IN[kind]
    site = Site("TRAIN", RecurrentSettings(11, expose_hidden=tops > 1), bottoms, tops)
    inner = rule.inner(site)
    assert inner is not None
    ours = unrolled(inner)
    assert [
        Line(
            node.layer.name,
            list(node.layer.bottoms),
            list(node.layer.tops),
            [ours.blobs[top].shape for top in node.tops],
            node.site.backward,
        )
        for node in ours.nodes
    ] == lines
    assert ours.log_memory_required_for_data == memory
    assert all(all(node.site.param_need) for node in ours.nodes)
    shape_of = {parameter.name: parameter.shape for parameter in ours.params}
    assert tuple(shape_of[name] for name in inner.parameters) == rule.parameters(site)


def test_sequence_indicators_that_ask_for_a_gradient_are_refused() -> None:
    site = Site("TRAIN", RecurrentSettings(11), (X, CONT), tops=1, backward=True,
                bottom_need=(True, True))  # fmt: skip
    with pytest.raises(ShapeError, match=r"continuation indicators \(bottom 1\)"):
        BUILT_IN["LSTM"].memory(site, "gpu")
    assert BUILT_IN["LSTM"].memory(replace(site, phase="TEST"), "gpu").shares


def test_more_time_steps_than_are_followed() -> None:
    site = Site("TRAIN", RecurrentSettings(num_output=2), ((10_001, 1, 3), (10_001, 1)), 1)
    with pytest.raises(ShapeError, match="caffe-batch supports at most 10000"):
        BUILT_IN["LSTM"].shape(site)
