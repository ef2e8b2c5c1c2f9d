"""Which memory layers touch, for settings that the measured cases leave out.

Sources: the .cpp and .cu files of the layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Memory, Mode, Phase, Shape, Site
from caffe_batch.layers.lrn import LRNSettings
from caffe_batch.layers.neurons import PowerSettings
from caffe_batch.layers.pooling import PoolingSettings, SPPSettings
from caffe_batch.layers.scale import ScaleSettings
from caffe_batch.layers.sides import bottom, own, param, top
from caffe_batch.layers.spatial import ConvolutionSettings

IMAGE = (5, 6, 13, 17)
PIXELS = 5 * 6 * 13 * 17
WINDOW = ConvolutionSettings(num_output=7, kernel_size=(3,))
GEOMETRY = ("kernel_shape_", "stride_", "pad_", "dilation_")


def memory(
    layer_type: str, settings: Any = None, bottom: Shape = IMAGE, *, mode: Mode = "gpu",
    phase: Phase = "TRAIN", in_place: bool = False, need: bool = True,
    params: tuple[bool, ...] = (True, True),
) -> Memory:  # fmt: skip
    site = Site(
        phase=phase,
        settings=settings,
        bottoms=(bottom,),
        tops=1,
        in_place=(in_place,),
        backward=True,
        bottom_need=(need,),
        param_need=params,
    )
    return BUILT_IN[layer_type].memory(site, mode)


def forward_counts(found: Memory) -> dict[str, int]:
    """Elements of the layer's own buffers that Forward touches."""
    return {b.name: b.count for b in found.buffers if b.data in found.forward}


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    ("bottom", "forced"), [((5, 3, 29), False), ((5, 3, 7, 11, 13), False), (IMAGE, True)]
)
def test_general_kernels_read_their_geometry_from_the_device(
    kind: str, bottom: Shape, forced: bool
) -> None:
    axes = len(bottom) - 2
    settings = replace(WINDOW, force_nd_im2col=forced)
    found = forward_counts(memory(kind, settings, bottom))
    expected = dict.fromkeys(GEOMETRY, axes)
    expected |= {"conv_input_shape_": axes + 1, "col_buffer_.shape": axes + 1}
    assert {name: found.get(name) for name in expected} == expected


def test_other_convolutions_need_no_geometry() -> None:
    pointwise = replace(WINDOW, kernel_size=(1,), force_nd_im2col=True)
    assert list(forward_counts(memory("Convolution", WINDOW))) == [
        "col_buffer_",
        "bias_multiplier_",
    ]
    assert list(forward_counts(memory("Convolution", pointwise))) == ["bias_multiplier_"]


def test_general_im2col_reads_the_shapes_of_its_blobs() -> None:
    found = forward_counts(memory("Im2col", ConvolutionSettings(kernel_size=(3,)), (5, 3, 29)))
    assert found == dict.fromkeys(GEOMETRY, 1) | {"bottom0.shape": 3, "top0.shape": 3}
    assert forward_counts(memory("Im2col", ConvolutionSettings(kernel_size=(3,)))) == {}


@pytest.mark.parametrize("need", [True, False])
def test_pointwise_convolution_has_columns_for_the_gradient_of_its_input(need: bool) -> None:
    found = memory("Convolution", replace(WINDOW, kernel_size=(1,)), need=need)
    assert own("col_buffer_").data not in found.forward
    assert (own("col_buffer_").data in found.backward) is need


@pytest.mark.parametrize(
    ("kind", "mode", "touched"),
    [
        ("Convolution", "gpu", False),
        ("Convolution", "cpu", True),
        ("Deconvolution", "gpu", True),
        ("Deconvolution", "cpu", True),
    ],
)
def test_gradient_of_the_input_when_only_the_bias_learns(
    kind: str, mode: Mode, touched: bool
) -> None:
    found = memory(kind, WINDOW, mode=mode, need=False, params=(False, True))
    assert (bottom(0).diff in found.backward) is touched


@pytest.mark.parametrize(
    ("phase", "mode", "kept"),
    [("TRAIN", "gpu", True), ("TEST", "gpu", False), ("TEST", "cpu", True)],
)
def test_dropout_mask(phase: Phase, mode: Mode, kept: bool) -> None:
    found = forward_counts(memory("Dropout", phase=phase, mode=mode))
    assert found == ({"rand_vec_": PIXELS} if kept else {})


@pytest.mark.parametrize(("phase", "kept"), [("TRAIN", True), ("TEST", False)])
def test_stochastic_pooling_remembers_its_choice_in_training(phase: Phase, kept: bool) -> None:
    pooled = 5 * 6 * 6 * 8
    pool = PoolingSettings(pool="STOCHASTIC", kernel_size=3, stride=2)
    found = forward_counts(memory("Pooling", pool, phase=phase))
    assert found == ({"rand_idx_": pooled} if kept else {})
    pyramid = memory("SPP", SPPSettings(pyramid_height=1, pool="STOCHASTIC"), phase=phase)
    assert forward_counts(pyramid) == ({"rand_idx_0": 5 * 6} if kept else {})


def test_power_that_ignores_its_input_doesnt_read_it() -> None:
    assert memory("Power", PowerSettings(power=0)).forward == (top(0).data,)
    assert bottom(0).data in memory("Power", PowerSettings(power=3)).forward


def test_a_single_scale_is_summed_on_the_host() -> None:
    scalar = ScaleSettings(num_axes=0)
    assert param(0).diff not in memory("Scale", scalar, params=(True,)).backward
    assert param(0).diff in memory("Scale", scalar, params=(True,), mode="cpu").backward


@pytest.mark.parametrize(
    ("settings", "in_place", "buffers"),
    [
        (ScaleSettings(), False, {"sum_result_": 30, "sum_multiplier_": 221}),
        (ScaleSettings(), True, {"temp_": PIXELS, "sum_result_": 30, "sum_multiplier_": 221}),
        (ScaleSettings(axis=0), False, {"sum_multiplier_": 6 * 221}),
        (ScaleSettings(axis=-1), False, {"sum_multiplier_": 5 * 6 * 13}),
        (ScaleSettings(axis=0, num_axes=-1), False, {}),
    ],
)
def test_buffers_of_the_gradient_of_a_scale(
    settings: ScaleSettings, in_place: bool, buffers: dict[str, int]
) -> None:
    found = memory("Scale", settings, in_place=in_place, params=(True,))
    touched = {*found.forward, *found.backward}
    assert {b.name: b.count for b in found.buffers if b.data in touched} == buffers


@pytest.mark.parametrize(("mode", "elements"), [("gpu", 0), ("cpu", (6 + 4 + 2) * 13 * 17)])
def test_lrn_works_on_one_padded_image_at_a_time(mode: Mode, elements: int) -> None:
    assert memory("LRN", LRNSettings(), mode=mode).transient == elements
