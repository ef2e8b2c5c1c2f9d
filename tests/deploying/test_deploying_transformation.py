"""What becomes of a TEST net: its inputs, its outputs, and what is left out."""

from __future__ import annotations

import re

import pytest

from caffe_batch import prototxt
from caffe_batch.deploying import Deployed, deployed
from caffe_batch.errors import NetError
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 5 dim: 3 dim: 11 dim: 7 } shape { dim: 5 }
    data_filler { type: "uniform" } data_filler { type: "uniform" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 2 } convolution_param { num_output: 13 kernel_size: 3
    weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
HEAD = """
layer { name: "NAME" type: "InnerProduct" bottom: "conv" top: "NAME"
  inner_product_param { num_output: 17 } }
"""


def head(name: str, *losses: str) -> str:
    return HEAD.replace("NAME", name) + "".join(losses)


def loss(kind: str, *bottoms: str, more: str = "") -> str:
    reads = " ".join(f'bottom: "{each}"' for each in bottoms)
    top = f'top: "{bottoms[0]}_{kind}"' if kind == "Accuracy" else ""
    return f'layer {{ name: "{bottoms[0]}_{kind}" type: "{kind}" {reads} {top} {more} }}\n'


def made(text: str) -> Deployed:
    message = prototxt.parse_net(text)
    file = NetFile(message, None, net_state("TEST", message))
    return deployed(file, Sources(()))


def outputs(found: Deployed) -> list[tuple[str, str]]:
    return [(each.name, each.made_by) for each in found.outputs]


def types(found: Deployed) -> list[str]:
    return [layer.type for layer in found.message.layer]


SOFTMAX = loss("SoftmaxWithLoss", "fc", "label")
ACCURACY = loss("Accuracy", "fc", "label")


def test_a_classifier() -> None:
    found = made(DATA + head("fc", SOFTMAX, ACCURACY))
    assert dict(found.inputs) == {"data": (1, 3, 11, 7)}
    assert outputs(found) == [("prob", "Softmax")]
    assert found.outputs[0].classes
    assert found.outputs[0].probabilities
    assert types(found) == ["Input", "Convolution", "ReLU", "InnerProduct", "Softmax"]
    assert "lr_mult" not in found.text()
    assert "filler" not in found.text()
    assert "label" not in found.text()


def test_losses_without_a_softmax_give_what_they_read() -> None:
    for kind in ("HingeLoss",):
        found = made(DATA + head("fc", loss(kind, "fc", "label")))
        assert outputs(found) == [("fc", "")]
        assert found.outputs[0].classes
        assert not found.outputs[0].probabilities


def test_the_softmax_of_the_train_net_where_the_test_net_has_only_an_accuracy() -> None:
    train = loss("SoftmaxWithLoss", "fc", "label", more="include { phase: TRAIN }")
    assert outputs(made(DATA + head("fc", train, ACCURACY))) == [("prob", "Softmax")]


def test_a_softmax_that_is_there_already() -> None:
    own = 'layer { name: "own" type: "Softmax" bottom: "fc" top: "own" include { phase: TEST } }'
    found = made(DATA + head("fc", SOFTMAX, own))
    assert outputs(found) == [("own", "")]
    assert found.outputs[0].classes
    assert found.outputs[0].probabilities


def test_the_settings_of_the_softmax_are_kept() -> None:
    axis = loss("SoftmaxWithLoss", "conv", "label", more="softmax_param { axis: 0 }")
    text = DATA.replace("shape { dim: 5 }", "shape { dim: 5 dim: 117 }") + axis
    found = made(text)
    assert found.message.layer[-1].softmax_param.axis == 0


def test_auxiliary_losses_are_left_out() -> None:
    side = loss("SoftmaxWithLoss", "side", "label", more="loss_weight: 0.3")
    found = made(DATA + head("side", side) + head("fc", SOFTMAX))
    assert outputs(found) == [("prob", "Softmax")]
    assert len(found.notes) == 1
    assert "'side' is left out: its loss has weight 0.3" in found.notes[0]


def test_several_answers() -> None:
    second = (
        DATA.replace('top: "label"', 'top: "label" top: "boxes"')
        .replace("shape { dim: 5 }", "shape { dim: 5 } shape { dim: 5 dim: 17 }")
        .replace("data_filler {", 'data_filler { type: "uniform" } data_filler {', 1)
    )
    boxes = loss("EuclideanLoss", "box", "boxes", more="loss_weight: 0.5")
    found = made(second + head("box", boxes) + head("fc", SOFTMAX))
    assert outputs(found) == [("box", ""), ("prob", "Softmax")]
    assert not found.outputs[0].classes
    assert list(found.inputs) == ["data"]


def test_a_target_made_of_the_input_is_no_answer() -> None:
    flat = 'layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }\n'
    again = (
        'layer { name: "again" type: "InnerProduct" bottom: "conv" top: "again"\n'
        "  inner_product_param { num_output: 231 } }\n"
    )
    found = made(DATA + flat + again + loss("SigmoidCrossEntropyLoss", "again", "flat"))
    assert outputs(found) == [("prob", "Sigmoid")]
    assert "flat" not in types(found)
    assert not found.outputs[0].classes


def test_layers_that_only_the_labels_need_go_with_them() -> None:
    cut = (
        'layer { name: "cut" type: "Power" bottom: "label" top: "cut" }\n'
        'layer { name: "quiet" type: "Silence" bottom: "cut" }\n'
    )
    found = made(DATA + cut + head("fc", SOFTMAX))
    assert types(found) == ["Input", "Convolution", "ReLU", "InnerProduct", "Softmax"]


def test_a_name_that_is_taken() -> None:
    found = made(DATA.replace('"conv"', '"prob"') + head("fc", SOFTMAX).replace("conv", "prob"))
    assert outputs(found) == [("fc_prob", "Softmax")]


def test_shared_parameters_keep_their_names() -> None:
    shared = head("fc", SOFTMAX).replace(
        "inner_product_param", 'param { name: "w" lr_mult: 3 } inner_product_param'
    )
    found = made(DATA + shared)
    assert re.search(r'param \{\s+name: "w"\s+\}', found.text())


def test_a_net_that_takes_no_single_sample_keeps_its_batch() -> None:
    fixed = """
    layer { name: "pairs" type: "Reshape" bottom: "fc" top: "pairs"
      reshape_param { shape { dim: 5 dim: 17 } } }
    """
    read = loss("SoftmaxWithLoss", "pairs", "label")
    found = made(DATA + head("fc", fixed, read))
    assert dict(found.inputs) == {"data": (5, 3, 11, 7)}


def test_nothing_is_left_of_a_net_without_parameters() -> None:
    with pytest.raises(NetError, match="nothing in the TEST net makes a prediction"):
        made(DATA[: DATA.index("layer", 10)] + loss("EuclideanLoss", "data", "data"))
