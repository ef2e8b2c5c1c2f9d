"""The layers that read a blob determine which numbers it may hold."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from caffe_batch.experiments.made_data import numbers_for
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.facts import NumberKind as Kind
from caffe_batch.layers.facts import Numbers
from caffe_batch.net.convert import convert
from caffe_batch.net.graph import build
from caffe_batch.schema import caffe_pb2


def wanted(shapes: list[str], layers: str, top: str) -> Numbers:
    """For a net that reads blobs a, b, c of these shapes (``5 3``)."""
    names = "abc"[: len(shapes)]
    tops = " ".join(f'top: "{name}"' for name in names)
    dims = " ".join(
        "shape { " + " ".join(f"dim: {size}" for size in shape.split()) + " }" for shape in shapes
    )
    text = f'layer {{ name: "in" type: "Input" {tops} input_param {{ {dims} }} }} {layers}'
    message = text_format.Parse(text, caffe_pb2.NetParameter())
    layers_read = [convert(layer, BUILT_IN[layer.type]) for layer in message.layer]
    return numbers_for(build(layers_read, phase="TRAIN"), top)


def reader(layer_type: str, bottoms: str, settings: str = "", tops: str = "t") -> str:
    read = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    written = " ".join(f'top: "{top}"' for top in tops.split())
    return f'layer {{ name: "{layer_type}" type: "{layer_type}" {read} {written} {settings} }}'


@pytest.mark.parametrize(
    ("shapes", "layers", "top", "expected"),
    [
        (["5 3"], reader("ReLU", "a"), "a", Numbers()),
        (["5 3", "5"], reader("SoftmaxWithLoss", "a b"), "a", Numbers()),
        (["5 3", "5"], reader("SoftmaxWithLoss", "a b"), "b", Numbers(Kind.INDEX, 3)),
        (
            ["5 3 7", "5 3"],
            reader("SoftmaxWithLoss", "a b", "softmax_param { axis: -1 }"),
            "b",
            Numbers(Kind.INDEX, 7),
        ),
        (
            ["5 3", "5"],
            reader("SoftmaxWithLoss", "a b", "loss_param { ignore_label: 255 }"),
            "b",
            Numbers(Kind.INDEX, 3, 255),
        ),
        (
            ["5 3", "5"],  # Accuracy takes the ignored label for a class
            reader("SoftmaxWithLoss", "a b", "loss_param { ignore_label: 255 }")
            + reader("Accuracy", "a b", tops="u"),
            "b",
            Numbers(Kind.INDEX, 3),
        ),
        (["5 3", "5", "5 2"], reader("SoftmaxWithLoss", "a b")
         + reader("SoftmaxWithLoss", "c b", tops="u"), "b", Numbers(Kind.INDEX, 2)),
        (["5 3", "5"], reader("HingeLoss", "a b"), "b", Numbers(Kind.INDEX, 3)),
        (["5 3 2", "5"], reader("MultinomialLogisticLoss", "a b"), "b", Numbers(Kind.INDEX, 6)),
        (["5 3", "5"], reader("InfogainLoss", "a b", 'infogain_loss_param { source: "H" }'), "b",
         Numbers(Kind.INDEX, 3)),
        (["5 3", "5 3"], reader("SigmoidCrossEntropyLoss", "a b"), "b", Numbers(Kind.INDEX, 2)),
        (["5 3", "5 3"], reader("EuclideanLoss", "a b"), "b", Numbers()),
        (["5 3", "5 3", "5"], reader("ContrastiveLoss", "a b c"), "c", Numbers(Kind.INDEX, 2)),
        (["5 3"], reader("Embed", "a", "embed_param { input_dim: 9 num_output: 2 }"), "a",
         Numbers(Kind.INDEX, 9)),
        (["5 3", "7"], reader("BatchReindex", "a b"), "b", Numbers(Kind.INDEX, 5)),
        (["5 3", "5"], reader("Filter", "a b"), "b", Numbers(Kind.SELECTOR)),
        (["5 3", "5", "5"], reader("Filter", "a b c", tops="t u"), "c", Numbers(Kind.SELECTOR)),
        (["3 5 7", "3 5"], reader("LSTM", "a b", "recurrent_param { num_output: 2 }"), "b",
         Numbers(Kind.BEGIN)),
        (["3 5 7", "3 5"], reader("RNN", "a b", "recurrent_param { num_output: 2 }"), "b",
         Numbers(Kind.BEGIN)),
        (  # through layers that hold the same numbers in another shape
            ["5 3", "5 1 1"],
            reader("Flatten", "b", "flatten_param { axis: 0 }", tops="flat")
            + reader("SoftmaxWithLoss", "a flat"),
            "b",
            Numbers(Kind.INDEX, 3),
        ),
        (  # and no further than that
            ["5 3", "5"],
            reader("Power", "b", tops="p") + reader("SoftmaxWithLoss", "a p"),
            "b",
            Numbers(),
        ),
    ],
)  # fmt: skip
def test_numbers_follow_from_the_readers(
    shapes: list[str], layers: str, top: str, expected: Numbers
) -> None:
    assert wanted(shapes, layers, top) == expected
