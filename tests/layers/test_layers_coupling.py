"""What rules say of the samples of a batch, against real Caffe: a case or more for each type.

A layer runs once over six samples and twice over three of them. Where its rule says that samples on
that axis don't influence each other, the outputs are the same, sample for sample; where it says
that they do, they aren't. (Gradients follow in tests/experiments/test_experiments_causes.py.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape, Site
from caffe_batch.net.convert import convert
from caffe_batch.net.graph import build
from caffe_batch.schema import caffe_pb2
from tests.layers.caffe_judge import layer_text, one_layer_net

WHOLE, PART = 6, 3

CHILD = """
import json, os, sys
import numpy as np
import caffe

cases = json.load(open(sys.argv[1]))
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

def run(path, inputs):
    draw = np.random.RandomState(7)
    net = caffe.Net(path, caffe.TRAIN)
    for params in net.params.values():
        for blob in params:
            blob.data[...] = draw.uniform(0.1, 1, blob.data.shape)
    for name, values in inputs.items():
        net.blobs[name].data[...] = values
    net.forward()
    return net.blobs["t0"].data.copy()

for case in cases:
    draw = np.random.RandomState(5)
    whole = {name: draw.uniform(0.1, 1, shape) for name, shape in case["inputs"].items()}
    for name, most in case["integers"].items():
        whole[name] = draw.randint(0, most, whole[name].shape)
    axis = case["axis"]
    out = run(case["whole"], whole)
    parts = []
    for half in (0, 1):
        own = range(3 * half, 3 * half + 3)
        parts.append(run(case["part"], {
            name: np.take(v, own, axis) if v.shape[axis : axis + 1] == (6,) else v
            for name, v in whole.items()
        }))
    try:
        together = np.concatenate(parts, axis)
        error = float(abs(together - out).max()) if together.shape == out.shape else None
    except (ValueError, IndexError):
        error = None
    case["error"] = error
print(json.dumps([case["error"] for case in cases]))
"""


@dataclass(frozen=True)
class Case:
    """One layer and its inputs.

    Attributes:
        bottoms: Their shapes with 6 samples; ``axis`` has the 6.
        integers: By bottom, below which number its whole numbers are.
        apart: Whether the samples don't influence each other.
    """

    layer: str
    bottoms: tuple[Shape, ...]
    apart: bool = True
    axis: int = 0
    integers: tuple[tuple[str, int], ...] = ()


def on(layer_type: str, settings: str = "", shape: Shape = (6, 4, 5, 7), **more: object) -> Case:
    return Case(layer_text(layer_type, settings), (shape,), **more)  # type: ignore[arg-type]


def on_two(layer_type: str, second: Shape, settings: str = "", **more: object) -> Case:
    text = layer_text(layer_type, settings, bottoms=2)
    return Case(text, ((6, 4, 5, 7), second), **more)  # type: ignore[arg-type]


CONV = "convolution_param { num_output: 4 kernel_size: 3 }"
WIDE = (5, 6, 7)  # time first, samples on axis 1
CASES = {
    "AbsVal": on("AbsVal"),
    "ArgMax": on("ArgMax"),
    "ArgMax over the samples": on("ArgMax", "argmax_param { axis: 0 }", apart=False),
    "ArgMax, samples on axis 1": on("ArgMax", "argmax_param { axis: 2 }", WIDE, axis=1),
    "BNLL": on("BNLL"),
    "BatchNorm": on("BatchNorm", apart=False),
    "BatchNorm, known": on("BatchNorm", "batch_norm_param { use_global_stats: true }"),
    "Bias": on("Bias"),
    "Bias of two": on_two("Bias", (4,)),
    "Clip": on("Clip", "clip_param { min: 0.2 max: 0.7 }"),
    "Convolution": on("Convolution", CONV),
    "Convolution, samples on the channel axis": on(
        "Convolution", CONV, (4, 6, 5, 7), axis=1, apart=False
    ),
    "Convolution behind two axes": on(
        "Convolution", "convolution_param { num_output: 3 kernel_size: 2 axis: 2 }",
        (2, 6, 3, 5, 7), axis=1,
    ),
    "Crop": on_two("Crop", (6, 4, 3, 4), "crop_param { offset: 1 }"),
    "Deconvolution": on("Deconvolution", CONV),
    "ELU": on("ELU"),
    "Eltwise": on_two("Eltwise", (6, 4, 5, 7)),
    "Eltwise PROD": on_two("Eltwise", (6, 4, 5, 7), "eltwise_param { operation: PROD }"),
    "Embed": on(
        "Embed", "embed_param { num_output: 3 input_dim: 9 }", (6, 4), integers=(("b0", 9),)
    ),
    "Exp": on("Exp"),
    "Im2col": on("Im2col", "convolution_param { kernel_size: 3 }"),
    "InnerProduct": on("InnerProduct", "inner_product_param { num_output: 3 }"),
    "InnerProduct of steps": on(
        "InnerProduct", "inner_product_param { num_output: 3 axis: 2 }", WIDE, axis=1
    ),
    "InnerProduct, samples inside": on(
        "InnerProduct", "inner_product_param { num_output: 3 }", WIDE, axis=1, apart=False
    ),
    "LRN": on("LRN"),
    "LRN within": on("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }"),
    "Log": on("Log"),
    "MVN": on("MVN"),
    "PReLU": on("PReLU"),
    "Pooling": on("Pooling", "pooling_param { kernel_size: 2 }"),
    "Pooling, samples on axis 1": on(
        "Pooling", "pooling_param { kernel_size: 2 pool: AVE }", (2, 6, 5, 7), axis=1
    ),
    "Power": on("Power", "power_param { power: 2 scale: 3 }"),
    "ReLU": on("ReLU"),
    "Reduction of each": on("Reduction", "reduction_param { axis: 1 }"),
    "Reshape": on("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"),
    "SPP": on("SPP", "spp_param { pyramid_height: 2 }"),
    "Scale": on("Scale"),
    "Scale, a value a sample": on("Scale", "scale_param { axis: 0 }", apart=False),
    "Scale of two": on_two("Scale", (6, 4), "scale_param { axis: 0 }"),
    "Sigmoid": on("Sigmoid"),
    "Softmax": on("Softmax"),
    "Softmax over the samples": on("Softmax", "softmax_param { axis: 0 }", apart=False),
    "Softmax of steps": on("Softmax", "softmax_param { axis: 2 }", WIDE, axis=1),
    "Swish": on("Swish"),
    "TanH": on("TanH"),
    "Threshold": on("Threshold", "threshold_param { threshold: 0.5 }"),
    "Tile": on("Tile", "tile_param { axis: 1 tiles: 2 }"),
}  # fmt: skip

#: Types that are judged elsewhere: sources, losses and scores, layers without a top, those that put
#: together or take apart, pick, draw or carry on (tests/experiments/test_experiments_causes.py).
ELSEWHERE = {
    "Accuracy", "BatchReindex", "Concat", "ContrastiveLoss", "Data", "Dropout", "DummyData",
    "EuclideanLoss", "Filter", "Flatten", "HDF5Data", "HDF5Output", "HingeLoss", "ImageData",
    "InfogainLoss", "Input", "LSTM", "LSTMUnit", "MemoryData", "MultinomialLogisticLoss",
    "Parameter", "RNN", "Reduction", "SigmoidCrossEntropyLoss", "Silence", "Slice",
    "SoftmaxWithLoss", "Split", "WindowData",
}  # fmt: skip


def sized(case: Case, samples: int) -> tuple[Shape, ...]:
    """The bottoms with another number of samples; those without samples stay."""

    def resize(shape: Shape) -> Shape:
        if len(shape) <= case.axis or shape[case.axis] != WHOLE:
            return shape
        return (*shape[: case.axis], samples, *shape[case.axis + 1 :])

    return tuple(map(resize, case.bottoms))


@pytest.fixture(scope="module")
def errors(
    pycaffe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float | None]:
    """By case, the largest difference between whole and parts; None if the shapes differ."""
    folder = tmp_path_factory.mktemp("coupling")
    jobs = []
    for number, case in enumerate(CASES.values()):
        paths = {}
        for size, name in ((WHOLE, "whole"), (PART, "part")):
            path = folder / f"{number}_{name}.prototxt"
            path.write_text(one_layer_net(case.layer, *sized(case, size)))
            paths[name] = str(path)
        inputs = {f"b{i}": list(shape) for i, shape in enumerate(case.bottoms)}
        jobs.append({**paths, "inputs": inputs, "axis": case.axis, "integers": dict(case.integers)})
    listing = Path(folder, "cases.json")
    listing.write_text(json.dumps(jobs))
    found = json.loads(pycaffe(CHILD, str(listing)))
    return dict(zip(CASES, found, strict=True))


def apart(case: Case) -> bool:
    """Whether the rule says that samples on the case's axis don't influence each other."""
    message = text_format.Parse(case.layer, caffe_pb2.NetParameter()).layer[0]
    rule = BUILT_IN[message.type]
    text = one_layer_net(case.layer, *case.bottoms)
    layers = text_format.Parse(text, caffe_pb2.NetParameter()).layer
    node = build([convert(each, BUILT_IN[each.type]) for each in layers], phase="TRAIN").nodes[-1]
    site: Site = node.site
    own = any(case.axis < len(shape) and WHOLE in shape for shape in node.param_shapes)
    return case.axis not in rule.coupling(site).joint and not own


@pytest.mark.parametrize("name", CASES)
def test_samples_influence_each_other_where_the_rule_says_so(
    name: str, errors: dict[str, float | None]
) -> None:
    case, error = CASES[name], errors[name]
    assert apart(case) is case.apart
    if case.apart:
        assert error is not None
        assert error < 1e-5
    else:
        assert error is None or error > 1e-3


def test_every_type_is_judged_somewhere() -> None:
    here = {
        text_format.Parse(case.layer, caffe_pb2.NetParameter()).layer[0].type
        for case in CASES.values()
    }
    assert here | ELSEWHERE == set(BUILT_IN)
