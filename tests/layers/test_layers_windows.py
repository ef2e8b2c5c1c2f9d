"""Shapes of Convolution, Deconvolution, Im2col, Pooling, SPP and LRN beside the real Caffe's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_batch.errors import ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape, Site
from caffe_batch.layers.lrn import LRNSettings
from caffe_batch.layers.pooling import PoolingSettings, SPPSettings
from caffe_batch.layers.spatial import ConvolutionSettings
from tests.layers.caffe_judge import disagreements, layer_text, one_layer_net, we_build

IMAGE = (5, 6, 13, 17)
VOLUME = (2, 3, 7, 11, 13)
SIGNAL = (5, 3, 29)


def layer(layer_type: str, params: str, *bottoms: Shape, tops: int = 1) -> str:
    text = layer_text(layer_type, params, bottoms=len(bottoms), tops=tops)
    return one_layer_net(text, *bottoms)


def convolution(params: str, *bottoms: Shape, tops: int = 1, kind: str = "Convolution") -> str:
    return layer(kind, f"convolution_param {{ {params} }}", *bottoms, tops=tops)


def pooling(params: str, bottom: Shape = IMAGE, tops: int = 1) -> str:
    return layer("Pooling", f"pooling_param {{ {params} }}", bottom, tops=tops)


ACCEPTED = {
    "Convolution": [
        convolution("num_output: 7 kernel_size: 3", IMAGE),
        convolution("num_output: 7 kernel_size: 3 bias_term: false", IMAGE),
        convolution("num_output: 4 kernel_size: 3 group: 2 stride: 2 pad: 1", IMAGE),
        convolution("num_output: 7 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3", IMAGE),
        convolution("num_output: 7 kernel_size: 3 kernel_size: 5 pad: 2 pad: 1", IMAGE),
        convolution("num_output: 7 kernel_size: 3 pad_h: 2 dilation: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 dilation: 3 dilation: 2 stride: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 dilation: 0", IMAGE),
        convolution("num_output: 7 kernel_size: 1 force_nd_im2col: true", IMAGE),
        convolution("num_output: 7 kernel_size: 3 stride: 2", VOLUME),
        convolution("num_output: 7 kernel_size: 3 pad: 1", SIGNAL),
        convolution("num_output: 7 kernel_size: 3 axis: -2", VOLUME),
        convolution("num_output: 7 kernel_size: 3 axis: 2", VOLUME),
        convolution("num_output: 7 kernel_size: 3 axis: 0", (3, 11, 13)),
        convolution("num_output: 7 kernel_size: 1", (5, 3)),
        convolution("num_output: 7", (5, 3)),
        convolution("num_output: 7 kernel_size: 3", IMAGE, IMAGE, tops=2),
        # A kernel that sticks out by less than a stride: C++ rounds the quotient towards zero.
        convolution("num_output: 7 kernel_size: 7 stride: 3", (5, 3, 5, 11)),
        convolution(
            'num_output: 7 kernel_size: 3 weight_filler { type: "bilinear" } '
            'bias_filler { type: "gaussian" }',
            IMAGE,
        ),
    ],
    "Deconvolution": [
        convolution("num_output: 7 kernel_size: 4 stride: 2", IMAGE, kind="Deconvolution"),
        convolution("num_output: 4 kernel_size: 3 group: 2", IMAGE, kind="Deconvolution"),
        convolution(
            "num_output: 7 kernel_size: 3 dilation: 2 pad: 1", SIGNAL, kind="Deconvolution"
        ),
        convolution("num_output: 7 kernel_size: 2 stride: 3", VOLUME, kind="Deconvolution"),
        convolution("num_output: 7 kernel_size: 1", IMAGE, IMAGE, tops=2, kind="Deconvolution"),
        convolution("num_output: 7 kernel_size: 1", (5, 3), kind="Deconvolution"),
    ],
    "Im2col": [
        convolution("kernel_size: 3 stride: 2 pad: 1", IMAGE, kind="Im2col"),
        convolution("kernel_h: 3 kernel_w: 5 dilation: 2", IMAGE, kind="Im2col"),
        convolution("kernel_size: 2 kernel_size: 3 kernel_size: 5", VOLUME, kind="Im2col"),
        convolution("kernel_size: 3", SIGNAL, kind="Im2col"),
        convolution("kernel_size: 3 axis: 2", VOLUME, kind="Im2col"),
    ],
    "Pooling": [
        pooling("kernel_size: 3"),
        pooling("kernel_size: 3 stride: 2"),
        pooling("kernel_size: 3 stride: 2 round_mode: FLOOR"),
        pooling("kernel_size: 3 stride: 2 pad: 1"),
        pooling("kernel_size: 2 stride: 2 pad: 1 pool: AVE"),
        pooling("kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 0 pad_w: 2"),
        pooling("kernel_size: 3 kernel_h: 5"),
        pooling("kernel_size: 2 stride: 3 pool: STOCHASTIC"),
        pooling("global_pooling: true pool: AVE"),
        pooling("kernel_size: 3 stride: 2", tops=2),
        pooling("kernel_size: 6 stride: 2", (5, 3, 5, 11)),  # larger than the image
    ],
    "SPP": [
        layer("SPP", "spp_param { pyramid_height: 1 }", IMAGE),
        layer("SPP", "spp_param { pyramid_height: 2 pool: AVE }", IMAGE),
        layer("SPP", "spp_param { pyramid_height: 3 }", (5, 3, 13, 16)),
        layer("SPP", "spp_param { pyramid_height: 3 pool: STOCHASTIC }", (5, 3, 8, 16)),
    ],
    "LRN": [
        layer("LRN", "", IMAGE),
        layer("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", IMAGE),
        layer("LRN", "lrn_param { local_size: 1 norm_region: WITHIN_CHANNEL }", IMAGE),
    ],
}

REFUSED = {
    "Convolution": [
        convolution("kernel_size: 3", IMAGE),
        convolution("num_output: 7", IMAGE),
        convolution("num_output: 7 kernel_size: 0", IMAGE),
        convolution("num_output: 7 kernel_h: 3", IMAGE),
        convolution("num_output: 7 kernel_size: 3 kernel_h: 3 kernel_w: 3", IMAGE),
        convolution("num_output: 7 kernel_h: 3 kernel_w: 3", VOLUME),
        convolution("num_output: 7 kernel_size: 3 kernel_size: 3", VOLUME),
        convolution("num_output: 7 kernel_size: 3 stride: 0", IMAGE),
        convolution("num_output: 7 kernel_size: 3 stride_h: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 stride: 2 stride: 2 stride: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 pad: 2 pad_h: 2", IMAGE),
        convolution("num_output: 7 kernel_size: 3 dilation: 1 dilation: 1 dilation: 1", IMAGE),
        convolution("num_output: 7 kernel_size: 7", (5, 3, 5, 11)),
        convolution("num_output: 7 kernel_size: 6 bias_term: false", (5, 3, 5, 11)),  # height 0
        convolution("num_output: 8 kernel_size: 3 group: 4", IMAGE),
        convolution("num_output: 7 kernel_size: 3 group: 3", IMAGE),
        convolution("num_output: 7 kernel_size: 3 group: 0", IMAGE),
        convolution("num_output: 7 kernel_size: 3 axis: 4", IMAGE),
        convolution("num_output: 7 kernel_size: 3", IMAGE, (5, 6, 17, 13), tops=2),
        convolution("num_output: 7 kernel_size: 3", IMAGE, IMAGE),
        convolution("num_output: 7 kernel_size: 3", (5, 0, 13, 17)),
        convolution("num_output: 2 kernel_size: 33 pad: 16", (1, 64, 2000, 3000)),
        convolution('num_output: 7 kernel_size: 3 weight_filler { type: "xaver" }', IMAGE),
        convolution(
            'num_output: 7 kernel_h: 3 kernel_w: 5 weight_filler { type: "bilinear" }', IMAGE
        ),
    ],
    "Deconvolution": [
        convolution("num_output: 7 kernel_size: 1 pad: 7", IMAGE, kind="Deconvolution"),
        convolution("num_output: 7 kernel_size: 3 group: 2", IMAGE, kind="Deconvolution"),
    ],
    "Im2col": [
        convolution("kernel_size: 1", (5, 3), kind="Im2col"),
        convolution("kernel_size: 7", (5, 3, 5, 11), kind="Im2col"),
        convolution("", IMAGE, kind="Im2col"),
    ],
    "Pooling": [
        pooling(""),
        pooling("kernel_size: 0"),
        pooling("kernel_h: 3"),
        pooling("kernel_size: 3 kernel_h: 3 kernel_w: 3"),
        pooling("kernel_size: 3 stride: 0"),
        pooling("kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2"),
        pooling("kernel_size: 3 stride_h: 2"),
        pooling("kernel_size: 3 pad: 3"),
        pooling("kernel_size: 3 pad: 1 pool: STOCHASTIC"),
        pooling("kernel_size: 3 pad: 1 pad_h: 1 pad_w: 1"),
        pooling("kernel_size: 3 pad_w: 1"),
        pooling("global_pooling: true kernel_size: 3"),
        pooling("global_pooling: true stride: 2"),
        pooling("global_pooling: true pad: 1"),
        pooling("kernel_size: 3", SIGNAL),
        pooling("kernel_size: 3 pool: AVE", tops=2),
        pooling("kernel_size: 9", (5, 3, 5, 11)),
        pooling("kernel_size: 7", (5, 3, 6, 11)),  # height 0
        pooling("kernel_size: 9 pad: 1", (5, 3, 3, 11)),
    ],
    "SPP": [
        layer("SPP", "", IMAGE),
        layer("SPP", "spp_param { pyramid_height: 3 }", (5, 3, 5, 17)),
        layer("SPP", "spp_param { pyramid_height: 4000000000 }", IMAGE),
        layer("SPP", "spp_param { pyramid_height: 3 pool: STOCHASTIC }", IMAGE),
        layer("SPP", "spp_param { pyramid_height: 2 }", SIGNAL),
        layer("SPP", "spp_param { pyramid_height: 2 }", (5, 3, 0, 17)),
    ],
    "LRN": [
        layer("LRN", "lrn_param { local_size: 4 }", IMAGE),
        layer("LRN", "", SIGNAL),
    ],
}


@pytest.mark.parametrize("layer_type", ACCEPTED)
def test_same_shapes_as_caffe(layer_type: str, pycaffe: Callable[..., str]) -> None:
    assert all(we_build(net) for net in ACCEPTED[layer_type])
    assert disagreements(pycaffe, ACCEPTED[layer_type]) == []


@pytest.mark.parametrize("layer_type", REFUSED)
def test_refused_as_by_caffe(layer_type: str, pycaffe: Callable[..., str]) -> None:
    assert not any(we_build(net) for net in REFUSED[layer_type])
    assert differences(pycaffe, REFUSED[layer_type]) == []


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Convolution", ConvolutionSettings(kernel_size=(3,)), "num_output, at least 1"),
        (
            "Convolution",
            ConvolutionSettings(num_output=8, kernel_size=(3,), group=4),
            "group 4 doesn't divide the input channels: 6",
        ),
        (
            "Convolution",
            ConvolutionSettings(num_output=7, kernel_size=(8,), dilation=(2,), pad=(0,)),
            "a kernel that reaches over 15 doesn't fit into an input of 13 with padding 0",
        ),
        (
            "Deconvolution",
            ConvolutionSettings(num_output=7, kernel_size=(1,), pad=(7,)),
            r"the output would be \(-1, 3\)",
        ),
        ("Im2col", ConvolutionSettings(kernel_size=(3, 3, 3)), "given 3 times for 2 spatial axes"),
        ("Pooling", PoolingSettings(kernel_size=3, pad=3), r"padding \(3, 3\) must be smaller"),
        ("SPP", SPPSettings(pyramid_height=4), r"level 3 of the pyramid \(8 x 8 bins\)"),
        ("LRN", LRNSettings(local_size=4), "local_size must be odd, not 4"),
    ],
)
def test_a_refusal_says_why(kind: str, settings: object, message: str) -> None:
    site = Site("TRAIN", settings, (IMAGE,), tops=1, in_place=(False,))
    with pytest.raises(ShapeError, match=message):
        BUILT_IN[kind].shape(site)


def differences(pycaffe: Callable[..., str], nets: list[str]) -> list[Any]:
    """Where Caffe and the rules differ.

    A net with an empty blob counts as refused: Caffe builds it, but a blob without elements has no
    memory, and the first layer that touches it aborts (blob.cpp, ``CHECK(data_)``).
    """
    return [
        (net, theirs, ours)
        for net, theirs, ours in disagreements(pycaffe, nets)
        if ours or not theirs or not any(0 in shape for shape in theirs.blobs.values())
    ]


def sizes(name: str, values: st.SearchStrategy[int], axes: int) -> st.SearchStrategy[str]:
    """A repeated field: not at all, once, once an axis, and now and then once too often."""
    times = st.sampled_from([0, 1, 1, 1, 1, *[axes] * 8, axes + 1])
    return times.flatmap(lambda n: st.lists(values, min_size=n, max_size=n)).map(
        lambda chosen: " ".join(f"{name}: {value}" for value in chosen)
    )


@st.composite
def window_nets(draw: Any) -> str:
    """A convolution-like layer with any settings; about half of the nets are valid."""
    kind = draw(st.sampled_from(["Convolution", "Deconvolution", "Im2col"]))
    axes = draw(st.integers(1, 3))
    spatial = draw(st.lists(st.integers(3, 23), min_size=axes, max_size=axes))
    bottom = (2, draw(st.sampled_from([1, 3, 4, 6])), *spatial)
    fields = [
        draw(sizes("kernel_size", st.integers(1, 5), axes)) or "kernel_size: 3",
        draw(sizes("stride", st.integers(1, 4), axes)),
        draw(sizes("pad", st.integers(0, 3), axes)),
        draw(sizes("dilation", st.integers(1, 3), axes)),
        f"num_output: {draw(st.sampled_from([1, 4, 6, 7]))}",
        f"group: {draw(st.sampled_from([1, 1, 1, 1, 1, 2, 3]))}",
        f"bias_term: {draw(st.sampled_from(['true', 'false']))}",
        f"axis: {draw(st.sampled_from([1, 1, -axes - 1, -axes - 1, 2, -axes]))}",
    ]
    return convolution(" ".join(fields), bottom, kind=kind)


@st.composite
def pooling_nets(draw: Any) -> str:
    bottom = (2, 3, draw(st.integers(1, 23)), draw(st.integers(1, 23)))
    fields = [
        f"pool: {draw(st.sampled_from(['MAX', 'AVE', 'STOCHASTIC']))}",
        f"round_mode: {draw(st.sampled_from(['CEIL', 'FLOOR']))}",
    ]
    for name, values in (("kernel", (1, 7)), ("stride", (1, 5)), ("pad", (0, 4))):
        size = st.integers(*values)
        both = f"{name}_size" if name == "kernel" else name
        form = draw(
            st.sampled_from(["both", "both", "pair", "none" if name != "kernel" else "both"])
        )
        if form == "both":
            fields.append(f"{both}: {draw(size)}")
        elif form == "pair":
            fields.append(f"{name}_h: {draw(size)} {name}_w: {draw(size)}")
    return pooling(" ".join(fields), bottom)


@st.composite
def pyramid_nets(draw: Any) -> str:
    bottom = (2, 3, draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    return layer("SPP", f"spp_param {{ pyramid_height: {draw(st.integers(1, 4))} }}", bottom)


@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(
    st.lists(window_nets(), min_size=40, max_size=40),
    st.lists(pooling_nets(), min_size=30, max_size=30),
    st.lists(pyramid_nets(), min_size=15, max_size=15),
)
def test_any_window_agrees_with_caffe(
    pycaffe: Callable[..., str], windows: list[str], pools: list[str], pyramids: list[str]
) -> None:
    assert differences(pycaffe, windows + pools + pyramids) == []
