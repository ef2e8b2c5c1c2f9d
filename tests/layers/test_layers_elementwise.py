"""Shapes of element-wise and normalising layers, and of inputs, beside the real Caffe's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_batch.layers.base import Shape
from tests.layers.caffe_judge import disagreements, layer_text, one_layer_net, we_build

IMAGE = (5, 3, 13, 17)
CLIP = "clip_param { min: 0 max: 6 }"
NEURONS = ("BNLL", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid", "Swish", "TanH",
           "Threshold")  # fmt: skip


def net(layer_type: str, params: str, *bottoms: Shape, tops: int = 1) -> str:
    text = layer_text(layer_type, params, bottoms=len(bottoms), tops=tops)
    return one_layer_net(text, *bottoms)


def in_place(layer_type: str, params: str, *bottoms: Shape) -> str:
    reads = " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    return one_layer_net(
        f'layer {{ name: "l" type: "{layer_type}" {reads} top: "b0" {params} }}', *bottoms
    )


def source(layer_type: str, params: str, tops: int = 1) -> str:
    return layer_text(layer_type, params, bottoms=0, tops=tops)


ACCEPTED = {
    **{
        kind: [net(kind, "", IMAGE), net(kind, "", (5,)), in_place(kind, "", IMAGE)]
        for kind in NEURONS
    },
    "AbsVal": [net("AbsVal", "", IMAGE), net("AbsVal", "", (2, 3, 5, 7, 11))],
    "Clip": [net("Clip", CLIP, IMAGE), in_place("Clip", CLIP, (5,))],
    "PReLU": [
        net("PReLU", "", IMAGE),
        net("PReLU", "prelu_param { channel_shared: true }", IMAGE),
        net("PReLU", 'prelu_param { filler { type: "gaussian" } }', (5, 3)),
        in_place("PReLU", "", (5, 3, 7)),
    ],
    "BatchNorm": [
        net("BatchNorm", "", IMAGE),
        net("BatchNorm", "batch_norm_param { use_global_stats: true }", (5, 3)),
        in_place("BatchNorm", "", (2, 3, 5, 7, 11)),
    ],
    "Scale": [
        net("Scale", "", IMAGE),
        net("Scale", "scale_param { bias_term: true }", IMAGE),
        net("Scale", "scale_param { axis: -3 num_axes: 2 }", IMAGE),
        net("Scale", "scale_param { axis: 0 num_axes: -1 bias_term: true }", IMAGE),
        net("Scale", "scale_param { num_axes: 0 bias_term: true }", IMAGE),
        net("Scale", "", IMAGE, (3,)),
        net("Scale", "scale_param { axis: 0 bias_term: true }", IMAGE, (5, 3)),
        net("Scale", "scale_param { axis: 9 }", IMAGE, ()),  # nobody asks for a scalar's axis
        in_place("Scale", "scale_param { bias_term: true }", IMAGE, (3, 13)),
    ],
    "Bias": [
        net("Bias", "", IMAGE),
        net("Bias", "bias_param { axis: 2 num_axes: -1 }", IMAGE),
        net("Bias", "bias_param { num_axes: 0 }", IMAGE),
        net("Bias", "bias_param { axis: -2 }", IMAGE, (13, 17)),
        net("Bias", "bias_param { axis: 9 }", IMAGE, ()),
        in_place("Bias", "", IMAGE),
    ],
    "MVN": [
        net("MVN", "", IMAGE),
        net("MVN", "mvn_param { across_channels: true normalize_variance: false }", (5, 3)),
        net("MVN", "", ()),
    ],
    "Input": [
        source("Input", "input_param { shape { dim: 5 dim: 3 } shape { dim: 7 } }", tops=2),
        source("Input", "input_param { shape { dim: 5 dim: 3 } }", tops=2),
        source("Input", "input_param { shape { } }"),
    ],
    "DummyData": [
        source("DummyData", "dummy_data_param { shape { dim: 5 dim: 3 } shape { } }", tops=2),
        source("DummyData", "dummy_data_param { num: 5 channels: 3 height: 7 width: 2 }", tops=2),
        source(
            "DummyData",
            "dummy_data_param { num: 5 channels: 3 channels: 2 height: 7 width: 11 width: 13 "
            'data_filler { type: "uniform" } data_filler { type: "constant" } }',
            tops=2,
        ),
        source(
            "DummyData", 'dummy_data_param { shape { dim: 5 } data_filler { type: "gaussian" } }'
        ),
    ],
    "MemoryData": [
        source(
            "MemoryData",
            "memory_data_param { batch_size: 5 channels: 3 height: 13 width: 17 }",
            tops=2,
        ),
    ],
    "Parameter": [
        source("Parameter", "parameter_param { shape { dim: 5 dim: 3 } }"),
        source("Parameter", ""),
    ],
}

REFUSED = {
    "AbsVal": [in_place("AbsVal", "", IMAGE)],
    "Exp": [net("Exp", f"exp_param {{ base: {base} }}", IMAGE) for base in ("0", "-2", "inf")],
    "Log": [net("Log", f"log_param {{ base: {base} }}", IMAGE) for base in ("0", "1", "nan")],
    "ReLU": [net("ReLU", "", IMAGE, IMAGE), net("ReLU", "", IMAGE, tops=2)],
    "PReLU": [
        net("PReLU", "", (5,)),
        net("PReLU", "", (2, 3, 5, 7, 11)),
        net("PReLU", "prelu_param { channel_shared: true }", (5,)),
        net("PReLU", 'prelu_param { filler { type: "bilinear" } }', IMAGE),
        net("PReLU", 'prelu_param { channel_shared: true filler { type: "msra" } }', IMAGE),
    ],
    "BatchNorm": [
        net("BatchNorm", "", (5,)),
        net("BatchNorm", "", ()),
        net("BatchNorm", "", (5, 0, 7)),
    ],
    "Scale": [
        net("Scale", "scale_param { axis: 4 }", IMAGE),
        net("Scale", "scale_param { num_axes: -2 }", IMAGE),
        net("Scale", "scale_param { num_axes: 4 }", IMAGE),
        net("Scale", "", (5,)),
        net("Scale", "", IMAGE, (13,)),
        net("Scale", "scale_param { axis: 3 }", IMAGE, (17, 2)),
        net("Scale", "scale_param { axis: 9 bias_term: true }", IMAGE, ()),
        net("Scale", "", (5, 0)),
        net("Scale", 'scale_param { bias_term: true bias_filler { type: "x" } }', IMAGE),
    ],
    "Bias": [
        net("Bias", "bias_param { axis: -5 }", IMAGE),
        net("Bias", "bias_param { num_axes: -2 }", IMAGE),
        net("Bias", "bias_param { axis: 2 num_axes: 3 }", IMAGE),
        net("Bias", "", IMAGE, (13,)),
    ],
    "MVN": [net("MVN", "", (2, 3, 5, 7, 11))],
    "Input": [
        source("Input", "input_param { shape { dim: 5 } shape { dim: 3 } }", tops=3),
        source("Input", "input_param { shape { dim: 5 dim: -3 } }"),
        source("Input", "input_param { shape { dim: 65536 dim: 65536 } }"),
    ],
    "DummyData": [
        source("DummyData", ""),
        source("DummyData", "dummy_data_param { shape { dim: 5 } shape { dim: 3 } }", tops=3),
        source("DummyData", "dummy_data_param { shape { dim: 5 } num: 5 }"),
        source("DummyData", "dummy_data_param { num: 5 channels: 3 height: 7 }"),
        source("DummyData", "dummy_data_param { shape { dim: 5 dim: 0 } }"),
        source(
            "DummyData",
            "dummy_data_param { shape { dim: 5 } data_filler { } data_filler { } }",
            tops=3,
        ),
        source("DummyData", 'dummy_data_param { shape { dim: 5 } data_filler { type: "x" } }'),
    ],
    "MemoryData": [
        source("MemoryData", "", tops=2),
        source("MemoryData", "memory_data_param { batch_size: 5 channels: 3 height: 7 }", tops=2),
        source("MemoryData", "memory_data_param { batch_size: 5 channels: 3 height: 7 width: 11 }"),
    ],
    "Parameter": [source("Parameter", "", tops=2)],
}


@pytest.mark.parametrize("cases", [ACCEPTED, REFUSED], ids=["accepted", "refused"])
def test_same_verdict_as_caffe(cases: dict[str, list[str]], pycaffe: Callable[..., str]) -> None:
    nets = [net for of_type in cases.values() for net in of_type]
    assert [net for net in nets if (we_build(net) is None) != (cases is REFUSED)] == []
    assert disagreements(pycaffe, nets) == []


shapes = st.lists(st.integers(1, 7), max_size=5).map(tuple)


@st.composite
def operand_nets(draw: st.DrawFn) -> str:
    """A Scale or Bias with any axes; the second bottom, if there is one, often fits."""
    kind = draw(st.sampled_from(["Scale", "Bias"]))
    bottom = draw(shapes)
    axis = draw(st.integers(-len(bottom) - 1, len(bottom)))
    fields = [f"axis: {axis}", f"num_axes: {draw(st.integers(-2, 4))}"]
    if kind == "Scale":
        fields.append(f"bias_term: {draw(st.sampled_from(['true', 'false']))}")
    bottoms: list[Shape] = [bottom]
    if draw(st.booleans()):
        start = axis % len(bottom) if bottom else 0
        fitting = bottom[start : start + draw(st.integers(0, 3))]
        bottoms.append(draw(st.sampled_from([fitting, fitting, (2,)])))
    make = draw(st.sampled_from([net, in_place]))
    return make(kind, f"{kind.lower()}_param {{ {' '.join(fields)} }}", *bottoms)


@st.composite
def plain_nets(draw: st.DrawFn) -> str:
    make = draw(st.sampled_from([net, in_place]))
    kind = draw(st.sampled_from(["PReLU", "BatchNorm", "MVN", "LRN", "Dropout", "AbsVal"]))
    return make(kind, "", draw(shapes))


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(nets=st.lists(operand_nets() | plain_nets(), min_size=40, max_size=60, unique=True))
def test_any_axis_agrees_with_caffe(pycaffe: Callable[..., str], nets: list[str]) -> None:
    assert disagreements(pycaffe, nets) == []
