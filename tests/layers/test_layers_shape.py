"""Shapes and parameters of layers that combine, cut, reshape and select, judged by real Caffe.

Sizes are pairwise different primes, so that no two axes can be mixed up.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caffe_batch.layers.base import Shape
from tests.layers.caffe_judge import (
    Built,
    caffe_builds,
    disagreements,
    layer_text,
    one_layer_net,
    we_build,
)

DATA = (2, 3, 5, 7)


def net(layer_type: str, settings_text: str, *bottoms: Shape, tops: int = 1) -> str:
    layer = layer_text(layer_type, settings_text, bottoms=len(bottoms), tops=tops)
    return one_layer_net(layer, *bottoms)


def in_place(layer_type: str, settings_text: str, *bottoms: Shape) -> str:
    reads = " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    layer = f'layer {{ name: "l" type: "{layer_type}" {reads} top: "b0" {settings_text} }}'
    return one_layer_net(layer, *bottoms)


ACCEPTED = [
    net("InnerProduct", "inner_product_param { num_output: 11 }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 11 axis: -1 bias_term: false }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 11 axis: 2 transpose: true }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 11 axis: 0 }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 11 bias_term: false }", (0, 3)),
    net(
        "InnerProduct", 'inner_product_param { num_output: 4 weight_filler { type: "msra" } }', DATA
    ),
    net("Embed", "embed_param { num_output: 11 input_dim: 13 }", (2, 3)),
    net("Embed", "embed_param { num_output: 11 input_dim: 13 bias_term: false }", (2, 3)),
    net("Embed", "embed_param { num_output: 11 input_dim: 13 }", ()),
    net("Softmax", "", DATA),
    net("Softmax", "softmax_param { axis: -1 }", DATA),
    in_place("Softmax", "softmax_param { axis: 0 }", (3,)),
    net("Split", "", DATA, tops=3),
    net("Silence", "", DATA, (2,), tops=0),
    net("Flatten", "", DATA),
    net("Flatten", "flatten_param { axis: 0 end_axis: -2 }", DATA),
    net("Flatten", "flatten_param { axis: 2 end_axis: 1 }", DATA),  # inserts an axis of 1
    net("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: 0 dim: 5 dim: 3 dim: 0 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: 15 } axis: 1 num_axes: 2 }", DATA),
    net("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 dim: 1 } axis: -3 num_axes: 1 }", DATA),
    net("Reshape", "reshape_param { shape { dim: 210 } }", DATA),
    net("Reshape", "reshape_param { num_axes: 0 }", DATA),
    net("Concat", "", DATA, (2, 11, 5, 7), (2, 1, 5, 7)),
    net("Concat", "concat_param { concat_dim: 3 }", DATA, (2, 3, 5, 11)),
    net("Concat", "concat_param { axis: -4 }", DATA, (11, 3, 5, 7)),
    net("Concat", "", DATA),
    net("Slice", "", (2, 9, 5), tops=3),
    net("Slice", "slice_param { axis: -1 slice_point: 1 slice_point: 4 }", DATA, tops=3),
    net("Slice", "slice_param { slice_dim: 2 slice_point: 2 }", DATA, tops=2),
    net("Slice", "slice_param { slice_point: 2 slice_point: 5 }", (2, 5), tops=3),  # last one empty
    net("Slice", "", DATA, tops=1),
    net("Eltwise", "", DATA, DATA, DATA),
    net("Eltwise", "eltwise_param { coeff: 1 coeff: -0.5 }", DATA, DATA),
    net("Eltwise", "eltwise_param { operation: MAX coeff: 2 coeff: 3 }", DATA, DATA),
    in_place("Eltwise", "eltwise_param { operation: PROD }", DATA, DATA),
    net("Tile", "tile_param { tiles: 11 }", DATA),
    net("Tile", "tile_param { tiles: 11 axis: -1 }", DATA),
    net("Crop", "", (2, 3, 17, 19), (11, 13, 5, 7)),
    net(
        "Crop",
        "crop_param { axis: 1 offset: 1 offset: 12 offset: 0 }",
        (2, 3, 17, 19),
        (1, 2, 5, 7),
    ),
    net("Crop", "crop_param { axis: -1 offset: 12 }", (2, 3, 17, 19), (1, 2, 5, 7, 23)),
    net("Reduction", "", DATA),
    net("Reduction", "reduction_param { operation: MEAN axis: 2 coeff: 3 }", DATA),
    net("Reduction", "reduction_param { operation: SUMSQ axis: -1 }", DATA),
    net("ArgMax", "", DATA),
    net("ArgMax", "argmax_param { top_k: 11 out_max_val: true }", (2, 3, 5)),
    net("ArgMax", "argmax_param { top_k: 2 }", (2, 3)),
    net("ArgMax", "argmax_param { top_k: 2 }", (2, 3, 5, 7, 1)),
    net("ArgMax", "argmax_param { top_k: 4 axis: -2 out_max_val: true }", DATA),
    net("ArgMax", "", (5,)),
    net("BatchReindex", "", DATA, (11,)),
    net("BatchReindex", "", (2,), (11,)),
    net("Filter", "", DATA, (2,), tops=1),
    net("Filter", "", DATA, (2, 11), (2, 1, 1), tops=2),
]

REFUSED = [
    net("InnerProduct", "", DATA),
    net("InnerProduct", "inner_product_param { num_output: 0 }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 2 axis: 4 }", DATA),
    net("InnerProduct", "inner_product_param { num_output: 2 }", (5,)),
    net("InnerProduct", "inner_product_param { num_output: 2 }", (5, 0)),
    net("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "x" } }', DATA),
    net("InnerProduct", "inner_product_param { num_output: 2 }", DATA, DATA),
    net("InnerProduct", "inner_product_param { num_output: 2 }", DATA, tops=2),
    net("Embed", "embed_param { num_output: 11 }", (2, 3)),
    net("Embed", "embed_param { input_dim: 11 }", (2, 3)),
    net("Softmax", "softmax_param { axis: 4 }", DATA),
    net("Softmax", "", ()),
    net("Split", "", DATA, tops=0),
    in_place("Split", "", DATA),
    net("Silence", "", tops=0),
    net("Silence", "", DATA, tops=1),
    in_place("Flatten", "", DATA),
    net("Flatten", "", (5,)),
    net("Flatten", "flatten_param { axis: 3 end_axis: 1 }", DATA),
    net("Flatten", "flatten_param { end_axis: 4 }", DATA),
    in_place("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: 2 dim: 11 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 dim: 3 dim: -1 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: 4 dim: -1 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: -2 dim: -1 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 dim: 0 } }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 } axis: 5 }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 } axis: -6 }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 } axis: 2 num_axes: 3 }", DATA),
    net("Reshape", "reshape_param { shape { dim: -1 } num_axes: -2 }", DATA),
    net("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", (0, 3)),
    net("Concat", "", DATA, (2, 11, 5, 5)),
    net("Concat", "", DATA, (2, 11, 5)),
    net("Concat", "concat_param { axis: 1 concat_dim: 1 }", DATA, DATA),
    net("Concat", "concat_param { concat_dim: 4 }", DATA, DATA),
    net("Concat", "concat_param { axis: -5 }", DATA, DATA),
    net("Concat", "", tops=1),
    net("Slice", "", DATA, tops=2),
    net("Slice", "slice_param { slice_point: 1 }", DATA, tops=3),
    net("Slice", "slice_param { axis: 3 slice_point: 4 slice_point: 4 }", DATA, tops=3),
    net("Slice", "slice_param { axis: 3 slice_point: 8 }", DATA, tops=2),
    net("Slice", "slice_param { axis: 3 slice_point: 0 }", DATA, tops=2),
    net("Slice", "slice_param { slice_point: 1 slice_point: 2 slice_point: 3 }", DATA, tops=4),
    net("Slice", "slice_param { axis: 1 slice_dim: 1 }", DATA, tops=3),
    net("Slice", "", DATA, tops=0),
    net("Eltwise", "", DATA),
    net("Eltwise", "", DATA, (2, 3, 7, 5)),
    net("Eltwise", "", (2, 3), (2, 3, 1)),
    net("Eltwise", "eltwise_param { coeff: 1 }", DATA, DATA),
    net("Eltwise", "eltwise_param { operation: PROD coeff: 1 coeff: 1 }", DATA, DATA),
    net("Tile", "", DATA),
    net("Tile", "tile_param { tiles: 0 }", DATA),
    net("Tile", "tile_param { tiles: 2 axis: 4 }", DATA),
    net("Crop", "", (2, 3, 17, 19), (2, 3, 18, 7)),
    net("Crop", "crop_param { offset: 13 }", (2, 3, 17, 19), (2, 3, 5, 7)),
    net("Crop", "crop_param { offset: 1 offset: 2 offset: 3 }", (2, 3, 17, 19), (2, 3, 5, 7)),
    net("Crop", "crop_param { axis: 4 }", (2, 3, 17, 19), (2, 3, 5, 7)),
    net("Crop", "", (2, 3, 17, 19), (2, 3, 5)),
    net("Crop", "", (2, 3, 17, 19)),
    net("Reduction", "reduction_param { axis: 4 }", DATA),
    net("Reduction", "", ()),
    net("ArgMax", "argmax_param { top_k: 106 }", DATA),
    net("ArgMax", "argmax_param { top_k: 0 }", DATA),
    net("ArgMax", "argmax_param { top_k: 4 axis: 1 }", DATA),
    net("ArgMax", "argmax_param { axis: 4 }", DATA),
    net("ArgMax", "", ()),
    net("BatchReindex", "", DATA, (11, 1)),
    net("BatchReindex", "", DATA),
    net("Filter", "", DATA, (3,)),
    net("Filter", "", DATA, (2, 2)),
    net("Filter", "", DATA, DATA, (2,), tops=1),
    net("Filter", "", DATA, ()),
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


sizes = st.sampled_from([1, 2, 3, 5, 7, 11, 2, 3, 5, 7, 0])
shapes = st.lists(sizes, min_size=1, max_size=5).map(tuple)
axes = st.integers(-6, 6)


@st.composite
def inner_products(draw: st.DrawFn) -> str:
    text = f"num_output: {draw(sizes)} axis: {draw(axes)} transpose: {draw(st.booleans())!s:.1}"
    return net("InnerProduct", f"inner_product_param {{ {text.lower()} }}", draw(shapes))


@st.composite
def flattens(draw: st.DrawFn) -> str:
    text = f"flatten_param {{ axis: {draw(axes)} end_axis: {draw(axes)} }}"
    return net("Flatten", text, draw(shapes))


@st.composite
def reshapes(draw: st.DrawFn) -> str:
    dims = draw(st.lists(st.sampled_from([-1, 0, 0, 1, 2, 3, 5, 6, 10, 15]), max_size=4))
    shape = " ".join(f"dim: {dim}" for dim in dims)
    span = f"axis: {draw(axes)} num_axes: {draw(st.integers(-2, 4))}"
    return net("Reshape", f"reshape_param {{ shape {{ {shape} }} {span} }}", draw(shapes))


@st.composite
def concats(draw: st.DrawFn) -> str:
    first = draw(shapes)
    others = [list(first) for _ in range(draw(st.integers(0, 3)))]
    for other in others:
        other[draw(st.integers(0, len(first) - 1))] = draw(sizes)
    bottoms = [first, *map(tuple, others)]
    return net("Concat", f"concat_param {{ axis: {draw(axes)} }}", *bottoms)


@st.composite
def slices(draw: st.DrawFn) -> str:
    points = draw(st.lists(st.integers(1, 11), max_size=3))
    tops = draw(st.sampled_from([1, 2, 3, len(points) + 1, len(points) + 1]))
    text = " ".join(f"slice_point: {point}" for point in points)
    return net("Slice", f"slice_param {{ axis: {draw(axes)} {text} }}", draw(shapes), tops=tops)


@st.composite
def crops(draw: st.DrawFn) -> str:
    data = draw(shapes)
    reference = [draw(st.integers(0, size)) for size in data]
    offsets = " ".join(f"offset: {n}" for n in draw(st.lists(st.integers(0, 3), max_size=3)))
    text = f"crop_param {{ axis: {draw(axes)} {offsets} }}"
    return net("Crop", text, data, tuple(reference))


@st.composite
def reductions(draw: st.DrawFn) -> str:
    operation = draw(st.sampled_from(["SUM", "ASUM", "SUMSQ", "MEAN"]))
    text = f"reduction_param {{ axis: {draw(axes)} operation: {operation} }}"
    return net("Reduction", text, draw(shapes))


@st.composite
def argmaxes(draw: st.DrawFn) -> str:
    axis = draw(st.sampled_from(["", "axis: -1", "axis: 0", "axis: 2", "axis: -4"]))
    value = "out_max_val: true" if draw(st.booleans()) else ""
    text = f"argmax_param {{ {axis} {value} top_k: {draw(st.integers(0, 6))} }}"
    return net("ArgMax", text, draw(shapes))


@st.composite
def others(draw: st.DrawFn) -> str:
    shape = draw(shapes)
    return draw(
        st.sampled_from(
            [
                net("Softmax", f"softmax_param {{ axis: {draw(axes)} }}", shape),
                net(
                    "Tile",
                    f"tile_param {{ axis: {draw(axes)} tiles: {draw(st.integers(0, 6))} }}",
                    shape,
                ),
                net("Eltwise", "", shape, draw(st.sampled_from([shape, shape[::-1]]))),
                net("BatchReindex", "", shape, draw(shapes)),
                net("Filter", "", shape, draw(shapes)),
            ]
        )
    )


any_net = st.one_of(
    inner_products(), flattens(), reshapes(), concats(), slices(), crops(), reductions(),
    argmaxes(), others(),
)  # fmt: skip


@settings(
    max_examples=3,
    phases=(Phase.generate,),  # each try costs a process: a failing list is printed, not shrunk
    suppress_health_check=list(HealthCheck),
)
@given(nets=st.lists(any_net, min_size=40, max_size=60, unique=True))
def test_any_axis_and_size_agrees_with_caffe(pycaffe: Callable[..., str], nets: list[str]) -> None:
    assert disagreements(pycaffe, nets) == []
