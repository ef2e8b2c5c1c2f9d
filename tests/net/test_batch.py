"""Which layers hold the batch: the samples decide, and real Caffe is the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_batch import prototxt
from caffe_batch.errors import NetError, ShapeError
from caffe_batch.layers.base import Layer
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import NetFile, Sources, read_recipe
from caffe_batch.net.batch import batch_size, batch_unit, with_batch_size
from caffe_batch.net.filtering import net_state
from caffe_batch.planning.edits.changes import applied, batch_changes
from caffe_batch.planning.split.net_tests import planned_tests
from caffe_batch.schema import caffe_pb2

Pycaffe = Callable[..., str]

DATA = """
layer {{ name: "{name}" type: "MemoryData" top: "{name}" top: "l_{name}"
  memory_data_param {{ batch_size: {size} channels: 3 height: 1 width: 1 }} }}
"""
CONSTANT = """
layer {{ name: "{name}" type: "DummyData" top: "{name}"
  dummy_data_param {{ shape {{ {dims} }} data_filler {{ type: "{filler}" value: 1 }} }} }}
"""
CLASSES = """
layer {{ name: "fc_{name}" type: "InnerProduct" bottom: "{name}" top: "fc_{name}"
  inner_product_param {{ num_output: 4 }} }}
"""
LOSS = """
layer {{ name: "loss_{name}" type: "SoftmaxWithLoss" bottom: "fc_{name}" bottom: "l_{name}"
  top: "loss_{name}" }}
"""
INFOGAIN = """
layer { name: "p" type: "Softmax" bottom: "fc_a" top: "p" }
layer { name: "loss" type: "InfogainLoss" bottom: "p" bottom: "l_a" bottom: "H" top: "loss" }
"""
BUILD = """
import sys, caffe
open("net.prototxt", "w").write(sys.argv[1])
caffe.Net("net.prototxt", caffe.TRAIN)
"""


def data(name: str, size: int) -> str:
    return DATA.format(name=name, size=size)


def made(name: str, *dims: int, filler: str = "constant") -> str:
    text = " ".join(f"dim: {dim}" for dim in dims)
    return CONSTANT.format(name=name, dims=text, filler=filler)


def branch(name: str) -> str:
    return CLASSES.format(name=name) + LOSS.format(name=name)


def layers_of(text: str) -> tuple[Layer, ...]:
    message = text_format.Parse(text, caffe_pb2.NetParameter())
    return NetFile(message, None, net_state("TRAIN", message)).layers(Sources())


#: What a Concat, a Reshape or nothing at all does with what lies beside the data.
CONCAT = """
layer { name: "with" type: "Concat" bottom: "a" bottom: "noise" top: "with" }
layer { name: "fc_a" type: "InnerProduct" bottom: "with" top: "fc_a"
  inner_product_param { num_output: 4 } }
"""
TURNED = """
layer { name: "turn" type: "Reshape" bottom: "M" top: "H"
  reshape_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
"""
NETS = {
    "a matrix at 1 beside data": (
        data("a", 8) + made("H", 1, 1, 4, 4) + CLASSES.format(name="a") + INFOGAIN,
        {"a": 4, "H": 1},
    ),
    "a matrix as long as the batch": (
        data("a", 4) + made("M", 4, 4) + TURNED + CLASSES.format(name="a") + INFOGAIN,
        {"a": 2, "M": 4},
    ),
    "a matrix of Input beside data": (
        'layer { name: "H" type: "Input" top: "H" input_param { shape { dim: 1 dim: 1 dim: 4 '
        "dim: 4 } } }" + data("a", 1) + CLASSES.format(name="a") + INFOGAIN,
        {"a": 1, "H": 1},
    ),
    "noise beside data": (
        data("a", 8) + made("noise", 8, 2, 1, 1, filler="gaussian") + CONCAT
        + LOSS.format(name="a"),
        {"a": 4, "noise": 4},
    ),
    "a constant for each sample": (
        data("a", 8) + made("noise", 8, 2, 1, 1) + CONCAT + LOSS.format(name="a"),
        {"a": 4, "noise": 4},
    ),
    "a constant that nothing needs": (
        data("a", 8) + made("c", 8, 2) + branch("a")
        + 'layer { name: "s" type: "Silence" bottom: "c" }',
        {"a": 4, "c": 8},
    ),
    "two branches": (
        data("a", 8) + data("b", 4) + branch("a") + branch("b"),
        {"a": 4, "b": 2},
    ),
    "made data alone": (
        made("a", 8, 3) + made("l_a", 8) + branch("a"),
        {"a": 4, "l_a": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_the_samples_decide(pycaffe: Pycaffe, tmp_path: Path, name: str) -> None:
    text, wanted = NETS[name]
    (tmp_path / "net.prototxt").write_text(text)
    recipe = read_recipe(tmp_path / "net.prototxt")
    layers = layers_of(text)
    half = max(1, batch_size(layers) // 2)
    model = CaffeMemory(recipe, Sources())
    shapes = model.train_net(half).blob_shapes
    assert {top: shapes[top][0] for top in wanted} == wanted
    changed = applied(recipe, batch_changes(recipe, layers, half)).train.message
    (tmp_path / "changed").mkdir()
    for each, folder in ((text, tmp_path), (prototxt.write(changed), tmp_path / "changed")):
        pycaffe(BUILD, each, cwd=folder)


def test_proportions_of_whole_numbers_only() -> None:
    layers = layers_of(data("a", 6) + data("b", 4) + branch("a") + branch("b"))
    assert (batch_size(layers), batch_unit(layers)) == (6, 3)
    assert [layer.settings.batch_size for layer in with_batch_size(layers, 3)[:2]] == [3, 2]
    with pytest.raises(ShapeError, match="proportion of 4 to 6"):
        with_batch_size(layers, 4)


def test_a_proportion_that_caffe_does_not_build() -> None:
    """Streams beside steps of time: no other batch of both fits."""
    text = (
        data("a", 8) + data("b", 2)
        + 'layer { name: "turn" type: "Reshape" bottom: "b" top: "turned" '
        "reshape_param { shape { dim: 8 dim: -1 } } }"
        'layer { name: "same" type: "Reshape" bottom: "a" top: "rows" '
        "reshape_param { shape { dim: 0 dim: -1 } } }"
        'layer { name: "far" type: "Concat" bottom: "turned" bottom: "rows" top: "far" }'
    )  # fmt: skip
    layers = layers_of(text.replace("batch_size: 2 channels: 3", "batch_size: 2 channels: 4"))
    with pytest.raises(NetError, match="have batch_size 8 and 2, and the net takes no other"):
        batch_size(layers)


PYTHON = """
layer { name: "own" type: "Python" top: "a" top: "l_a" }
"""


def test_a_constant_beside_a_layer_without_a_rule_is_not_a_batch() -> None:
    message = text_format.Parse(PYTHON + made("c", 8, 2) + branch("a"), caffe_pb2.NetParameter())
    file = NetFile(message, None, net_state("TRAIN", message))
    with pytest.raises(NetError, match="how many samples a Python layer makes in a pass"):
        batch_size(file.layers(Sources(), allow_unknown=True))


@pytest.mark.parametrize(
    ("constant", "shared"), [("constant", False), ("gaussian", True)]
)  # fmt: skip
def test_a_test_net_shares_the_batch_through_samples_only(
    tmp_path: Path, constant: str, shared: bool
) -> None:
    phases = ("TRAIN", "TEST")
    own = [
        data("a", 8).replace("memory_data_param", f"include {{ phase: {phase} }} memory_data_param")
        for phase in phases
    ]
    text = "".join(own) + made("noise", 8, 2, 1, 1, filler=constant)
    text += CONCAT if shared else branch("a").replace("layer", "layer")
    text += LOSS.format(name="a") if shared else 'layer { type: "Silence" bottom: "noise" }'
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" max_iter: 9 test_iter: 5 test_interval: 3'
    )
    model = CaffeMemory(read_recipe(tmp_path / "solver.prototxt"), Sources())
    (test,) = planned_tests(model, (None,))
    assert test.shared is shared
    (net,) = model.test_nets(2)
    assert net.blob_shapes["a"][0] == (2 if shared else 8)


EMPTY = {
    "Data": "data_param { }",
    "ImageData": "image_data_param { batch_size: 0 }",
    "HDF5Data": "hdf5_data_param { }",
    "WindowData": "window_data_param { } transform_param { crop_size: 4 }",
    "MemoryData": "memory_data_param { channels: 1 height: 1 width: 1 }",
    "DummyData": "dummy_data_param { shape { dim: 0 dim: 3 } }",
    "Input": "input_param { shape { dim: 0 dim: 3 } }",
}


@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_batch_is_refused(kind: str) -> None:
    text = f'layer {{ name: "in" type: "{kind}" top: "a" top: "l_a" {EMPTY[kind]} }}'
    with pytest.raises(NetError, match="at least 1") as error:
        batch_size(layers_of(text + branch("a")))
    assert error.value.layer == "in"


def test_an_empty_batch_names_the_message_that_was_meant() -> None:
    text = 'layer { name: "in" type: "Data" top: "a" image_data_param { batch_size: 50 } }'
    with pytest.raises(ShapeError, match="data_param needs batch_size") as error:
        layers_of(text)
    assert "image_data_param has no effect in a layer of type Data" in error.value.message
    assert "ImageData" in str(error.value.hint)
