"""The rules of forks' layers: shapes, parameters and buffers worked out by hand.

The formulas are those of each fork's LayerSetUp and Reshape, which the rule names in ``follows``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from caffe_batch.errors import ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Memory, Mode, Phase, Rule, Shape, Site
from caffe_batch.layers.forks import ALIKE, CHANGED, DIFFERENT, FORKS, changed_by, types_of
from caffe_batch.layers.forks.annotated_data import Resizing
from caffe_batch.layers.forks.python_layers import PYTHON_LAYERS
from caffe_batch.layers.loading import installed_rules, with_fork
from caffe_batch.layers.sides import bottom, own, top

#: Every rule of the family once, by type, and by type and fork where they differ.
RULES = {
    **{rule.type: rule for rule in ALIKE},
    **{f"{rule.type} ({rule.follows})": rule for rules in DIFFERENT.values() for rule in rules},
}


def of(kind: str, fork: str | None = None) -> Rule:
    """The rule of a type, as a fork has it."""
    return (with_fork(installed_rules(), fork) if fork else installed_rules())[kind]


def site_of(
    rule: Rule,
    bottoms: tuple[Shape, ...] = (),
    *,
    tops: int = 1,
    phase: Phase = "TRAIN",
    records: tuple[Shape, ...] | None = None,
    in_place: bool = False,
    **settings: Any,
) -> Site:
    """A layer that trains: all bottoms and parameters that may get a gradient get one."""
    site = Site(
        phase, rule.settings(**settings) if rule.settings else None, bottoms, tops,
        in_place=(in_place,) * tops, records=records,
    )  # fmt: skip
    if not bottoms:
        return site
    need = (True,) + (False,) * (len(bottoms) - 1)
    params = (True,) * len(rule.parameters(site))
    return replace(site, backward=True, bottom_need=need, param_need=params)


def own_bytes(memory: Memory, *, when: str = "all") -> int:
    """The bytes of the layer's own buffers that it touches."""
    stages = {"build": memory.build, "forward": memory.forward, "backward": memory.backward}
    touched = [side for name, sides in stages.items() if when in ("all", name) for side in sides]
    sizes = {each.name: each.count * each.itemsize * each.copies for each in memory.buffers}
    return sum(sizes[side.name] for side in {*touched} if side.owner == "own")


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in RULES.items()])
def test_a_rule_names_what_it_follows(rule: Rule) -> None:
    assert rule.type not in BUILT_IN
    assert rule.follows
    assert rule.origin == "caffe-batch's own"
    assert set(rule.forks) <= set(FORKS)


@pytest.mark.parametrize("rule", CHANGED, ids=lambda rule: f"{rule.type} {rule.forks}")
def test_a_changed_type_is_one_of_caffes_own(rule: Rule) -> None:
    assert isinstance(rule, type(BUILT_IN[rule.type]))
    assert rule.follows
    assert rule.forks
    assert changed_by(rule.forks[0])[rule.type] is rule


@pytest.mark.parametrize("fork", [None, *FORKS])
def test_each_fork_has_one_rule_for_each_type(fork: str | None) -> None:
    names = [rule.type for rule in types_of(fork)]
    assert len(set(names)) == len(names)
    assert set(names) == {rule.type for rule in ALIKE} | set(DIFFERENT)


N, C, H, W = 7, 6, 11, 13

SHAPES: list[tuple[str, dict[str, Any], tuple[Shape, ...], tuple[Shape, ...]]] = [
    ("Permute", {"order": (0, 2, 3, 1)}, ((N, C, H, W),), ((N, H, W, C),)),
    ("Permute", {"order": (1,)}, ((N, C, H, W),), ((C, N, H, W),)),
    ("Normalize", {}, ((N, C, H, W),), ((N, C, H, W),)),
    ("L2Normalization", {}, ((N, C),), ((N, C, 1, 1),)),
    # Ratios 1, 2, 1/2, 3, 1/3 of one size, and one box of the larger size: 6.
    (
        "PriorBox",
        {"min_size": (30.0,), "max_size": (60.0,), "aspect_ratio": (2.0, 3.0)},
        ((N, C, H, W), (N, 3, 300, 300)),
        ((1, 2, H * W * 6 * 4),),
    ),
    # Without flip 1, 2, 3 of two sizes; 1 and the second 2 are known already.
    (
        "PriorBox",
        {"min_size": (3.0, 4.0), "aspect_ratio": (2.0, 1.0, 2.0, 3.0), "flip": False},
        ((N, C, H, W), (N, 3, 300, 300)),
        ((1, 2, H * W * 6 * 4),),
    ),
    (
        "MultiBoxLoss",
        {"num_classes": 21},
        ((N, 5 * 4), (N, 5 * 21), (1, 2, 5 * 4), (1, 1, 17, 8)),
        ((),),
    ),
    (
        "DetectionOutput",
        {"num_classes": 21},
        ((N, 5 * 4), (N, 5 * 21), (1, 2, 5 * 4)),
        ((1, 1, 1, 7),),
    ),
    ("DetectionEvaluate", {"num_classes": 21}, ((1, 1, 1, 7), (1, 1, 9, 8)), ((1, 1, 21, 5),)),
    ("ROIPooling", {"pooled_h": 7, "pooled_w": 5}, ((2, C, H, W), (128, 5)), ((128, C, 7, 5),)),
    (
        "PSROIPooling",
        {"output_dim": 4, "group_size": 3},
        ((1, 36, H, W), (128, 5)),
        ((128, 4, 3, 3),),
    ),
    ("SmoothL1LossOHEM", {}, ((128, 8), (128, 8), (128, 8)), ((), (128, 1, 1, 1))),
    ("SoftmaxWithLossOHEM", {}, ((128, 21), (128,)), ((), (128, 21), (128,))),
    (
        "BoxAnnotatorOHEM",
        {"roi_per_img": 64},
        ((300, 5), (300,), (300,), (300, 84)),
        ((300, 1, 1, 1), (300, 84, 1, 1)),
    ),
    # PSPNet: 60 -> 473 is 59 * 8 + 1.
    ("Interp", {"zoom_factor": 8}, ((N, C, 60, 60),), ((N, C, 473, 473),)),
    ("Interp", {"shrink_factor": 8}, ((N, C, 321, 321),), ((N, C, 41, 41),)),
    ("Interp", {"height": 60, "width": 61}, ((N, C, 3, 6),), ((N, C, 60, 61),)),
    ("Interp", {"zoom_factor": 2, "pad_beg": -1, "pad_end": -1}, ((N, C, 7, 9),), ((N, C, 9, 13),)),
    # (21 - 1) // 4 + 1 = 6, then 6 + 5 * 2 = 16.
    ("Interp", {"shrink_factor": 4, "zoom_factor": 3}, ((N, C, 21, 21),), ((N, C, 16, 16),)),
    ("Upsample", {"scale": 2}, ((N, C, 5, 6),) * 2, ((N, C, 10, 12),)),
    ("Upsample", {"scale": 2, "pad_out_h": True}, ((N, C, 23, 30),) * 2, ((N, C, 45, 60),)),
    ("Upsample", {"scale": 3}, ((N, C, 5, 6),), ((N, C, 15, 18),)),
    ("Upsample", {"upsample_h": 45, "upsample_w": 60}, ((N, C, 23, 30),) * 2, ((N, C, 45, 60),)),
    ("BN", {}, ((N, C, H, W),), ((N, C, H, W),)),
    ("SegAccuracy", {}, ((N, 21, H, W), (N, 1, H, W)), ((1, 1, 1, 3),)),
    (
        "ConvolutionDepthwise",
        {"kernel_size": (3,), "stride": (2,), "pad": (1,), "num_output": 99},
        ((N, C, H, W),),
        ((N, C, 6, 7),),
    ),
    (
        "DepthwiseConvolution",
        {"kernel_size": (3,), "stride": (2,), "num_output": 12, "group": 6},
        ((N, C, H, W),),
        ((N, 12, 5, 6),),
    ),
    ("ShuffleChannel", {"group": 3}, ((N, C, H, W),), ((N, C, H, W),)),
    ("Axpy", {}, ((N, C, 1, 1), (N, C, H, W), (N, C, H, W)), ((N, C, H, W),)),
    ("Flip", {}, ((N, C, H, W),), ((N, C, H, W),)),
    ("Insanity", {}, ((N, C, H, W),), ((N, C, H, W),)),
    ("RReLU", {}, ((N, C),), ((N, C),)),
    ("ReLU6", {}, ((N, C),), ((N, C),)),
    ("SeLu", {}, ((N, C),), ((N, C),)),
    ("CtcLoss", {"alphabet_size": 11, "time_step": 20}, ((20, N, 11), (N, 5)), ((),)),
    ("WarpCTCLoss", {}, ((20, N, 11), (N, 5)), ((),)),
    ("ContinuationIndicator", {"time_step": 20, "batch_size": N}, (), ((20, N),)),
    ("LabelsequenceAccuracy", {}, ((N, 20, 11), (N, 5)), ((),)),
    (
        "CPMData",
        {"batch_size": N, "stride": 8, "num_parts": 14},
        (),
        ((N, 4, 368, 368), (N, 30, 46, 46)),
    ),
    (
        "CPMData:cpm_transform_param",
        {"batch_size": N, "stride": 8, "num_parts": 56, "crop_size_y": 360},
        (),
        ((N, 3, 360, 368), (N, 114, 45, 46)),
    ),
    # (16 + 2 - 3) / 2 + 1 = 8 frames, 112 + 2 - 3 + 1 rows.
    (
        "Convolution3D",
        {"num_output": 5, "kernel_size": 3, "kernel_depth": 3, "pad": 1, "temporal_pad": 1,
         "temporal_stride": 2},
        ((N, C, 16, 112, 171),),
        ((N, 5, 8, 112, 171),),
    ),
    (
        "CONVOLUTION3D",
        {"num_output": 5, "kernel_size": (3,), "kernel_depth": 1, "stride": (2,)},
        ((N, C, 16, 11, 13),),
        ((N, 5, 16, 5, 6),),
    ),
    # (2 - 1) * 2 + 4 = 6 frames, (5 - 1) * 2 - 2 + 4 = 10 rows.
    (
        "DECONVOLUTION3D",
        {"num_output": 5, "kernel_size": (4,), "kernel_depth": 4, "stride": (2,), "pad": (1,),
         "temporal_stride": 2},
        ((N, C, 2, 5, 6),),
        ((N, 5, 6, 10, 12),),
    ),
    # ceil((7 - 2) / 2) + 1 = 4 rows, as in Caffe; one frame each.
    (
        "Pooling3D",
        {"kernel_size": 2, "stride": 2, "kernel_depth": 1},
        ((N, C, 3, 7, 8),),
        ((N, C, 3, 4, 4),),
    ),
    (
        "POOLING3D",
        {"kernel_size": 2, "stride": 2, "kernel_depth": 2, "temporal_stride": 2, "pad": 1,
         "pool": "AVE"},
        ((N, C, 3, 7, 8),),
        ((N, C, 2, 5, 5),),
    ),
    (
        "VIDEO_DATA",
        {"batch_size": N, "new_length": 16, "crop_size": 112},
        (),
        ((N, 3, 16, 112, 112), (N, 1, 1, 1, 1)),
    ),
    ("SpatialDropout", {}, ((N, C, H, W),), ((N, C, H, W),)),
    ("MarginInnerProduct", {"num_output": 10572}, ((N, 512), (N,)), ((N, 10572), (1,))),
    ("CenterLoss", {"num_output": 10572}, ((N, 512), (N,)), ((),)),
    (
        "DenseImageData",
        {"batch_size": N, "new_height": 360, "new_width": 480},
        (),
        ((N, 3, 360, 480), (N, 1, 360, 480)),
    ),
    (
        "DenseImageData",
        {"batch_size": N, "new_height": 96, "new_width": 136, "label_divide_factor": 8},
        (),
        ((N, 3, 96, 136), (N, 1, 12, 17)),
    ),
    (
        "DenseImageData",
        {"batch_size": N, "crop_height": 96, "crop_width": 136, "label_divide_factor": 8},
        (),
        ((N, 3, 96, 136), (N, 1, 96, 136)),
    ),
    (
        "ImageSegData",
        {"batch_size": N, "crop_size": 473},
        (),
        ((N, 3, 473, 473), (N, 1, 473, 473), (N, 1, 1, 2)),
    ),
    (
        "AnnotatedData",
        {"batch_size": N, "resize_param": (Resizing(height=300, width=310),),
         "annotated_data_param": True},
        (),
        ((N, 3, 300, 310), (1, 1, 1, 8)),
    ),
    # Of sizes that take turns the largest one counts.
    (
        "AnnotatedData",
        {"batch_size": N, "resize_param": (Resizing(height=352, width=352),
                                           Resizing(height=608, width=544))},
        (),
        ((N, 3, 608, 544), (N,)),
    ),
    # Three segments of five flow frames, two channels each.
    (
        "VideoData",
        {"batch_size": N, "new_length": 5, "num_segments": 3, "crop_size": 224},
        (),
        ((N, 30, 224, 224), (N, 1, 1, 1)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "bottoms", "wanted"), SHAPES)
def test_the_shapes(
    kind: str, settings: dict[str, Any], bottoms: tuple[Shape, ...], wanted: tuple[Shape, ...]
) -> None:
    rule = of(kind)
    site = site_of(rule, bottoms, tops=len(wanted), **settings)
    assert rule.shape(site) == wanted


def test_every_type_has_its_shape_above() -> None:
    covered = {kind for kind, *_ in SHAPES} | {rule.type for rule in PYTHON_LAYERS}
    assert covered | {"SmoothL1Loss"} == {rule.type for rule in ALIKE} | set(DIFFERENT)


REFUSED: list[tuple[str, dict[str, Any], tuple[Shape, ...], str]] = [
    ("Permute", {"order": (0, 4)}, ((N, C, H, W),), "order 4 is outside"),
    ("Permute", {"order": (0, 1, 1)}, ((N, C, H, W),), "axis 1 more than once"),
    ("PriorBox", {}, ((N, C, H, W),), "min_size"),
    ("PriorBox", {"min_size": (9.0,)}, ((N, C, H, W),), "size of the image isn't known"),
    ("PriorBox", {"min_size": (9.0,), "max_size": (9.0,)}, ((N, C, H, W),), "larger than its"),
    ("MultiBoxLoss", {"num_classes": 3}, ((N, 20), (N, 14), (1, 2, 20), (1, 1, 1, 8)), "need 15"),
    ("MultiBoxLoss", {"num_classes": 3, "share_location": False},
     ((N, 20), (N, 15), (1, 2, 20), (1, 1, 1, 8)), "mining needs share_location"),
    ("DetectionEvaluate", {"num_classes": 3}, ((1, 1, 1, 7), (1, 1, 1, 7)), "true boxes"),
    ("ROIPooling", {}, ((N, C, H, W), (9, 5)), "pooled_h"),
    ("ROIPooling", {"pooled_h": 7, "pooled_w": 7}, ((N, C, H, W), (9, 4)), "rows of 5"),
    ("PSROIPooling", {"output_dim": 4, "group_size": 3}, ((1, 35, H, W), (9, 5)), "36 channels"),
    ("SmoothL1Loss", {}, ((N, 4), (N, 3)), "same shape"),
    ("Interp", {}, ((N, C, H, W),), "needs zoom_factor"),
    ("Interp", {"zoom_factor": 2, "pad_beg": 1}, ((N, C, H, W),), "can only crop"),
    ("Upsample", {"scale": 2}, ((N, C, 5, 6), (N, C, 5, 7)), "must have one shape"),
    ("Upsample", {"scale": 4, "pad_out_h": True}, ((N, C, 5, 6),) * 2, "needs a scale of 2"),
    ("ConvolutionDepthwise", {"kernel_size": (3,), "pad": (1,)}, ((N, C, H, W),), "needs stride"),
    ("ConvolutionDepthwise", {"kernel_size": (3,), "pad": (1,), "stride": (1,)},
     ((256, 512, 64, 64),), "buffer of products"),
    ("ShuffleChannel", {"group": 4}, ((N, C, H, W),), "doesn't divide"),
    ("Axpy", {}, ((N, C, 1, 2), (N, C, H, W), (N, C, H, W)), "one number for each"),
    ("Insanity", {"lb": 0.0}, ((N, C),), "neither may be 0"),
    ("SegAccuracy", {}, ((N, 21, H, W), (N, H, W)), "one label a pixel"),
    ("CtcLoss", {"alphabet_size": 11, "time_step": 20}, ((20, N, 11), (20, 5)), "rows of labels"),
    ("BoxAnnotatorOHEM", {"roi_per_img": 1}, ((9, 5), (8,), (9,), (9, 8)), "as many losses"),
    ("DenseImageData", {"batch_size": 1, "new_height": 3}, (), "both new_height and new_width"),
    ("DenseImageData", {"batch_size": 1, "new_height": 4, "new_width": 9, "label_divide_factor": 8},
     (), "no elements"),
    ("Convolution3D", {"num_output": 5, "kernel_size": 3, "kernel_depth": 3},
     ((N, C, H, W),), "not N, C, length"),
    ("Convolution3D", {"num_output": 5, "kernel_size": 3, "kernel_depth": 5},
     ((N, C, 4, H, W),), "kernel is larger"),
    ("Convolution3D", {"num_output": 5, "kernel_size": 3}, ((N, C, 4, H, W),), "kernel_depth"),
    ("CONVOLUTION3D", {"num_output": 5, "kernel_size": (3, 2), "kernel_depth": 3},
     ((N, C, 4, H, W),), "one kernel_size, not 2"),
    ("Pooling3D", {"kernel_size": 3, "kernel_depth": 1, "pad": 1},
     ((N, C, 4, H, W),), "only for average"),
    ("MarginInnerProduct", {"num_output": 3}, ((N, 5), (N + 1,)), "differ in the first axis"),
    ("CenterLoss", {"num_output": 3}, ((N, 5), (N, 2)), "one label for each"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "bottoms", "reason"), REFUSED)
def test_what_the_fork_refuses(
    kind: str, settings: dict[str, Any], bottoms: tuple[Shape, ...], reason: str
) -> None:
    rule = of(kind)
    bare = Site("TRAIN", rule.settings(**settings) if rule.settings else None, bottoms, 1)
    with pytest.raises(ShapeError, match=reason):
        rule.shape(bare)


def test_the_r_cnn_familys_loss_is_r_fcns_with_one_weight_or_two_tops() -> None:
    rule = of("SmoothL1Loss", "rcnn")
    boxes = (128, 84)
    wanted = {(4, 1): 4 * 128 * 84, (2, 1): 4 * 128 * 84, (3, 1): 0, (3, 2): 0, (2, 2): 0}
    for (bottoms, tops), ones in wanted.items():
        site = site_of(rule, (boxes,) * bottoms, tops=tops)
        assert rule.shape(site) == ((), (128, 1, 1, 1))[:tops]
        buffers = rule.memory(site, "cpu").buffers
        assert sum(4 * each.count for each in buffers if each.name == "ones_") == ones
    assert of("SmoothL1Loss", "ssd").bottoms == (2, 3)


def test_r_fcns_softmax_loss_has_a_third_top() -> None:
    rule = of("SoftmaxWithLoss", "rcnn")
    assert rule.tops == (1, 3)
    assert rule.is_loss
    assert rule.shape(site_of(rule, ((128, 21), (128,)), tops=3)) == ((), (128, 21), (128,))
    caffes = of("SoftmaxWithLoss", "ssd")
    for mode in ("gpu", "cpu"):
        site = site_of(rule, ((128, 21), (128,)))
        assert rule.memory(site, mode) == caffes.memory(site, mode)


def test_a_clip_of_c3d() -> None:
    rule = of("VideoData", "c3d")
    site = site_of(rule, tops=2, batch_size=N, new_length=16, crop_size=112, new_height=128)
    data = N * 3 * 16 * 112 * 112
    assert rule.shape(site) == ((N, 3, 16, 112, 112), (N,))
    assert own_bytes(rule.memory(site, "gpu")) == 4 * 4 * (data + N)
    older = of("VIDEO_DATA")
    site = site_of(older, tops=2, batch_size=N, new_length=16, crop_size=112)
    assert own_bytes(older.memory(site, "gpu")) == 0
    assert own_bytes(older.memory(site, "cpu")) == 4 * (data + N)


@pytest.mark.parametrize(
    ("kind", "fork", "weighted"),
    [
        ("SmoothL1Loss", "ssd", True),
        ("SmoothL1Loss", "rcnn", False),
        ("SmoothL1LossOHEM", None, False),
        ("SoftmaxWithLossOHEM", None, True),
        ("MultiBoxLoss", None, True),
        ("CtcLoss", None, True),
    ],
)
def test_which_losses_have_a_weight_of_their_own(
    kind: str, fork: str | None, weighted: bool
) -> None:
    """LossLayer::LayerSetUp gives the weight 1; the R-CNN family's SmoothL1Loss doesn't call it."""
    assert of(kind, fork).is_loss == weighted


SIZE = 4 * N * C * H * W

#: Type, fork, settings, bottoms, mode, the bytes of its own buffers, and how they come about.
BUFFERS: list[tuple[str, str | None, dict[str, Any], tuple[Shape, ...], Mode, int]] = [
    # Both sides of one sample's columns, and a one for each place.
    ("Convolution3D", None, {"num_output": 5, "kernel_size": 3, "kernel_depth": 2, "pad": 1},
     ((N, C, 4, H, W),), "gpu", 4 * (2 * C * 18 * 3 * H * W + 3 * H * W)),
    ("CONVOLUTION3D", None, {"num_output": 5, "kernel_size": (1,), "kernel_depth": 1,
                             "bias_term": False}, ((N, C, 4, H, W),), "gpu", 4 * 2 * C * 4 * H * W),
    ("DECONVOLUTION3D", None, {"num_output": 5, "kernel_size": (2,), "kernel_depth": 1,
                               "bias_term": False}, ((N, C, 4, H, W),), "gpu",
     4 * 2 * 5 * 4 * 4 * H * W),
    ("Pooling3D", None, {"kernel_size": 2, "kernel_depth": 1}, ((N, C, 4, H, W),), "gpu", 0),
    ("Pooling3D", None, {"kernel_size": 1, "kernel_depth": 1, "pool": "STOCHASTIC"},
     ((N, C, 4, H, W),), "gpu", 4 * N * C * 4 * H * W),
    # A number for each channel of each sample.
    ("SpatialDropout", None, {}, ((N, C, H, W),), "gpu", 4 * N * C),
    # A norm for each sample, and two or seven numbers for each score.
    ("MarginInnerProduct", None, {"num_output": 11}, ((N, C), (N,)), "gpu", 4 * (N + 2 * N * 11)),
    ("MarginInnerProduct", None, {"num_output": 11, "type": "QUADRUPLE"}, ((N, C), (N,)), "cpu",
     4 * (N + 7 * N * 11)),
    # The differences; the sums of the classes stay on the host.
    ("CenterLoss", None, {"num_output": 11}, ((N, C), (N,)), "gpu", 4 * N * C),
    ("CenterLoss", None, {"num_output": 11}, ((N, C), (N,)), "cpu", 4 * (N * C + 11 * C)),
    # Three lists of four numbers.
    ("Permute", None, {"order": (0, 2, 3, 1)}, ((N, C, H, W),), "gpu", 3 * 4 * 4),
    ("Permute", None, {}, ((N, C, H, W),), "gpu", 0),
    ("Permute", None, {}, ((N, C, H, W),), "cpu", 3 * 4 * 4),
    # An image, a norm and a sum for each position, a sum and a one for each channel.
    ("Normalize", None, {"across_spatial": False, "channel_shared": False}, ((N, C, H, W),), "gpu",
     4 * (C * H * W + N * H * W + 2 * H * W + 2 * C)),
    # Across the image the norms are on the host.
    ("Normalize", None, {}, ((N, C, H, W),), "gpu", 4 * (C * H * W + 2 * H * W + 2 * C)),
    ("Normalize", None, {}, ((N, C, H, W),), "cpu", 4 * (C * H * W + N + 2 * H * W + 2 * C)),
    ("Normalize", None, {"normalize_param": True}, ((N, C, H, W),), "gpu",
     SIZE + 4 * 2 * N * H * W),
    ("PriorBox", None, {"min_size": (3.0,)}, ((N, C, H, W), (N, 3, 9, 9)), "gpu", 0),
    ("ROIPooling", None, {"pooled_h": 7, "pooled_w": 7}, ((1, C, H, W), (128, 5)), "gpu",
     4 * 128 * C * 49),
    ("PSROIPooling", None, {"output_dim": 4, "group_size": 3}, ((1, 36, H, W), (128, 5)), "gpu",
     4 * 128 * 4 * 9),
    ("SmoothL1Loss", "ssd", {}, ((N, 84), (N, 84)), "gpu", 2 * 4 * N * 84),
    ("SmoothL1Loss", "rcnn", {}, ((N, 84),) * 4, "gpu", 3 * 4 * N * 84),
    ("SmoothL1LossOHEM", None, {}, ((N, 8),) * 3, "gpu", 2 * 4 * N * 8),
    # Probabilities and their diff, and a scale for each label.
    ("SoftmaxWithLossOHEM", None, {}, ((N, 21), (N,)), "gpu", 4 * (2 * N * 21 + N)),
    ("BoxAnnotatorOHEM", None, {"roi_per_img": 4}, ((N, 5), (N,), (N,), (N, 8)), "gpu", 0),
    ("Interp", None, {"zoom_factor": 2}, ((N, C, H, W),), "gpu", 0),
    ("Upsample", None, {}, ((N, C, H, W),) * 2, "gpu", 0),
    # PSPNet's: two of the input's size, (N, C), three times C, ones for positions and samples.
    ("BN", "pspnet", {}, ((N, C, H, W),), "gpu", 2 * SIZE + 4 * (N * C + 2 * C + H * W + N)),
    # Frozen, nothing is kept of the normalised input.
    ("BN", "pspnet", {"frozen": True}, ((N, C, H, W),), "gpu",
     SIZE + 4 * (N * C + C + H * W + N)),
    # SegNet's: two of the input's size, two of (N, C), two of C, ones.
    ("BN", "segnet", {}, ((N, C, H, W),), "gpu",
     2 * SIZE + 4 * (2 * N * C + 2 * C + H * W + N)),
    ("BN", "segnet", {"bn_mode": "INFERENCE"}, ((N, C, H, W),), "gpu",
     SIZE + 4 * (2 * N * C + H * W + N)),
    # On the host also the diffs of the ones, and of the sums of each image.
    ("BN", "segnet", {}, ((N, C, H, W),), "cpu",
     2 * SIZE + 4 * (4 * N * C + 2 * C + 2 * (H * W + N))),
    # The output is 6 x 7: a product for each weight of each position, and ones; the same for bias.
    ("ConvolutionDepthwise", None, {"kernel_size": (3,), "stride": (2,), "pad": (1,)},
     ((N, C, H, W),), "gpu", 4 * N * 42 * (9 * C + 1 + C + 1)),
    ("ConvolutionDepthwise", None,
     {"kernel_size": (3,), "stride": (2,), "pad": (1,), "bias_term": False},
     ((N, C, H, W),), "gpu", 4 * N * 42 * (9 * C + 1)),
    ("DepthwiseConvolution", None,
     {"kernel_size": (3,), "num_output": 6, "group": 6}, ((N, C, H, W),), "gpu", 0),
    # On the host it is Caffe's convolution: columns of 9 * 6 channels, and ones for the bias.
    ("DepthwiseConvolution", None,
     {"kernel_size": (3,), "num_output": 6, "group": 6}, ((N, C, H, W),), "cpu",
     4 * 9 * 11 * (9 * C + 1)),
    ("ShuffleChannel", None, {"group": 3}, ((N, C, H, W),), "gpu", 0),
    ("Axpy", None, {}, ((N, C), (N, C, H, W), (N, C, H, W)), "gpu", 0),
    ("Axpy", None, {}, ((N, C), (N, C, H, W), (N, C, H, W)), "cpu", 4 * H * W),
    ("Flip", None, {}, ((N, C, H, W),), "gpu", 0),
    ("Insanity", None, {}, ((N, C, H, W),), "gpu", SIZE),
    ("RReLU", None, {}, ((N, C, H, W),), "gpu", SIZE),
    ("ReLU6", None, {}, ((N, C, H, W),), "gpu", 0),
    ("SeLu", None, {}, ((N, C, H, W),), "gpu", 0),
    # Without mining: locations, targets, differences and errors of each prior, and the gradient
    # of the locations; labels, probabilities twice, scales, and the gradient of the confidences.
    ("MultiBoxLoss", None, {"num_classes": 3, "mining_type": "NONE"},
     ((N, 5 * 4), (N, 5 * 3), (1, 2, 5 * 4), (1, 1, 2, 8)), "gpu",
     4 * (5 * N * 20 + N * 5 + 3 * N * 15 + N * 5)),
    # With mining also a copy of the confidences.
    ("MultiBoxLoss", None, {"num_classes": 3},
     ((N, 5 * 4), (N, 5 * 3), (1, 2, 5 * 4), (1, 1, 2, 8)), "gpu",
     4 * (5 * N * 20 + N * 5 + 4 * N * 15 + N * 5)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fork", "settings", "bottoms", "mode", "wanted"), BUFFERS)
def test_the_buffers(
    kind: str,
    fork: str | None,
    settings: dict[str, Any],
    bottoms: tuple[Shape, ...],
    mode: Mode,
    wanted: int,
) -> None:
    rule = of(kind, fork)
    site = site_of(rule, bottoms, **settings)
    assert own_bytes(rule.memory(site, mode)) == wanted


PARAMETERS: list[tuple[str, str | None, dict[str, Any], tuple[Shape, ...]]] = [
    ("Convolution3D", None, {"num_output": 5, "kernel_size": 3, "kernel_depth": 2},
     ((5, C, 2, 3, 3), (5,))),
    ("CONVOLUTION3D", None, {"num_output": 5, "kernel_size": (3,), "kernel_depth": 2},
     ((5, C, 2, 3, 3), (1, 1, 1, 1, 5))),
    ("DECONVOLUTION3D", None, {"num_output": 5, "kernel_size": (3,), "kernel_depth": 2},
     ((C, 5, 2, 3, 3), (1, 1, 1, 1, 5))),
    ("MarginInnerProduct", None, {"num_output": 5}, ((5, C * H * W),)),
    ("CenterLoss", None, {"num_output": 5}, ((5, C * H * W),)),
    ("Normalize", None, {}, ((),)),
    ("Normalize", None, {"channel_shared": False}, ((C,),)),
    ("Normalize", None, {"normalize_param": True}, ()),
    ("BN", "pspnet", {}, ((1, C, 1, 1),) * 4),
    ("BN", "segnet", {}, ((1, C, 1, 1),) * 2),
    ("ConvolutionDepthwise", None, {"kernel_size": (3,), "stride": (1,), "pad": (0,)},
     ((C, 1, 3, 3), (C,))),
    ("DepthwiseConvolution", None, {"kernel_size": (3,), "num_output": 12, "group": 6},
     ((12, 1, 3, 3), (12,))),
    ("BatchNorm", "nvcaffe", {"scale_bias": True}, ((C,), (C,), (1,), (C,), (C,))),
    ("BatchNorm", "nvcaffe", {}, ((C,), (C,), (1,))),
    ("BatchNorm", "ssd", {}, ((C,), (C,), (1,))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fork", "settings", "wanted"), PARAMETERS)
def test_the_parameters(
    kind: str, fork: str | None, settings: dict[str, Any], wanted: tuple[Shape, ...]
) -> None:
    rule = of(kind, fork)
    site = Site("TRAIN", rule.settings(**settings) if rule.settings else None, ((N, C, H, W),), 1)
    assert rule.parameters(site) == wanted


#: Type, fork, copies of the batch, whether they are on the GPU too.
PREFETCH = [
    ("Data", None, 4, True, False),
    ("Data", "ssd", 3, True, True),
    ("Data", "rcnn", 3, True, True),
    ("ImageData", "deeplab", 5, True, True),
    ("Data", "segnet", 1, False, True),
]


@pytest.mark.parametrize(("kind", "fork", "copies", "on_gpu", "copied"), PREFETCH)
def test_how_far_older_forks_read_ahead(
    kind: str, fork: str | None, copies: int, on_gpu: bool, copied: bool
) -> None:
    """Before Caffe 1.0 each batch is copied into a top with memory of its own."""
    rule = of(kind, fork)
    site = site_of(rule, tops=2, records=((3, 5, 6),), batch_size=N)
    device = rule.memory(site, "gpu")
    batch = 4 * N * (3 * 5 * 6 + 1)
    assert own_bytes(device) == (copies * batch if on_gpu else 0)
    assert own_bytes(rule.memory(site, "cpu")) == copies * batch
    assert (top(0).data in device.forward) == copied
    assert bool(device.shares) != copied


def test_an_order_that_changes_nothing_shares_the_memory() -> None:
    rule = of("Permute")
    memory = rule.memory(site_of(rule, ((N, C, H, W),), order=(0, 1)), "gpu")
    assert memory.shares == ((top(0).data, bottom(0).data),)
    assert memory.backward_shares == ((bottom(0).diff, top(0).diff),)
    assert memory.forward == memory.backward == ()


def test_detections_on_the_gpu_take_the_predictions_twice() -> None:
    rule = of("DetectionOutput")
    bottoms: tuple[Shape, ...] = ((N, 20), (N, 15), (1, 2, 20))
    bare = Site("TEST", rule.settings(num_classes=3), bottoms, 1)  # type: ignore[misc]
    assert own_bytes(rule.memory(bare, "gpu")) == 4 * (N * 20 + N * 15)
    assert own_bytes(rule.memory(bare, "cpu")) == 0


def test_cudnns_bn_keeps_two_numbers_a_channel() -> None:
    rule = of("BN", "pspnet")
    for frozen, wanted in ((False, 4 * 2 * C), (True, SIZE + 4 * (N * C + C + H * W + N))):
        site = site_of(rule, ((N, C, H, W),), frozen=frozen)
        memory = rule.memory(site, "gpu")
        assert own_bytes(rule.cudnn(site, memory)) == wanted
        kept = site_of(rule, ((N, C, H, W),), frozen=frozen, engine="CAFFE")
        assert rule.cudnn(kept, rule.memory(kept, "gpu")) == rule.memory(kept, "gpu")


def test_segnets_dropout_can_drop_in_test() -> None:
    rule = of("Dropout", "segnet")
    for sampled in (False, True):
        bare = site_of(rule, ((N, C),), phase="TEST", sample_weights_test=sampled)
        assert own_bytes(rule.memory(bare, "gpu")) == (4 * N * C if sampled else 0)
        assert rule.draws(bare.settings, "TEST") == sampled
    assert not of("Dropout").draws(None, "TEST")


def test_segnets_loss_may_have_a_weight_for_each_class() -> None:
    rule = of("SoftmaxWithLoss", "segnet")
    bottoms: tuple[Shape, ...] = ((N, 5, H, W), (N, 1, H, W))
    plain = site_of(rule, bottoms)
    weighted = site_of(rule, bottoms, weight_by_label_freqs=True, class_weighting=(1.0,) * 5)
    plain_bytes, weighted_bytes = (
        own_bytes(rule.memory(site, "gpu")) for site in (plain, weighted)
    )
    assert weighted_bytes - plain_bytes == 4 * 5


def test_accuracy_has_no_gpu_code_before_caffe_1() -> None:
    site = replace(site_of(of("Accuracy"), ((N, 5), (N,))), bottom_need=(False, False))
    assert of("Accuracy").memory(site, "gpu").forward
    assert of("Accuracy", "ssd").memory(site, "gpu") == Memory()
    assert of("Accuracy", "ssd").memory(site, "cpu") == of("Accuracy").memory(site, "cpu")


def test_ctcs_workspace_is_the_most_there_can_be() -> None:
    """Labels of length 5: 11 with blanks; 20 steps; 3 classes."""
    rule = of("WarpCTCLoss")
    memory = rule.memory(site_of(rule, ((20, N, 3), (N, 5))), "gpu")
    assert memory.transient == memory.at_most == N * (6 + 10 + 11 + 11 * 20 + 20 + 3 * 20)


def test_the_statistics_of_a_bn_make_the_split_another_training() -> None:
    pspnet, segnet = of("BN", "pspnet"), of("BN", "segnet")
    found = pspnet.coupling(site_of(pspnet, ((N, C, H, W),), momentum=0.75))
    assert found.statistics
    assert found.decay == 0.75
    frozen = pspnet.coupling(site_of(pspnet, ((N, C, H, W),), frozen=True))
    assert not frozen.statistics
    own_way = segnet.coupling(site_of(segnet, ((N, C, H, W),)))
    assert own_way.statistics
    assert own_way.decay is None
    assert own_way.overwrites == (0, 1)


def test_multibox_loss_divides_by_matches_unless_told_otherwise() -> None:
    rule = of("MultiBoxLoss")
    bottoms: tuple[Shape, ...] = ((N, 20), (N, 15), (1, 2, 20), (1, 1, 2, 8))
    for mode, divisor, by_labels in (
        (None, N * 5, (0,)),
        ("VALID", N * 5, (0,)),
        ("FULL", N * 5, ()),
        ("BATCH_SIZE", N, ()),
        ("NONE", 1, ()),
    ):
        site = site_of(rule, bottoms, num_classes=3, normalization=mode)
        assert (rule.coupling(site).divisor, rule.coupling(site).by_labels) == (divisor, by_labels)


def test_annotated_data_brings_images_to_their_size() -> None:
    rule = of("AnnotatedData")

    def shape(record: Shape | None, **settings: Any) -> Shape:
        records = (record,) if record else None
        site = site_of(rule, tops=1, records=records, batch_size=1, **settings)
        return rule.shape(site)[0]

    assert shape((3, 40, 50)) == (1, 3, 40, 50)
    assert shape((3, 40, 50), crop_h=30, crop_w=20) == (1, 3, 30, 20)
    assert shape((1, 40, 50), resize_param=(Resizing(height=9, width=8),)) == (1, 1, 9, 8)
    fitted = Resizing("FIT_SMALL_SIZE", height=10, width=10)
    assert shape((3, 40, 50), resize_param=(fitted,)) == (1, 3, 10, 12)
    assert shape((3, 50, 40), resize_param=(fitted,)) == (1, 3, 12, 10)
    with pytest.raises(ShapeError, match="crop of 60 x 20 is larger"):
        shape((3, 40, 50), crop_h=60, crop_w=20)


def test_pooling_rounds_down_where_ceil_mode_says_so() -> None:
    """112 -> 55.5 with a 3x3 window and stride 2: 56 rounded up, 55 rounded down."""
    rule = of("Pooling")
    for up, wanted in ((True, 56), (False, 55)):
        site = site_of(rule, ((1, 2, 112, 112),), kernel_size=3, stride=2, ceil_mode=up)
        assert rule.shape(site) == ((1, 2, wanted, wanted),)


def test_a_convolution_may_have_two_dilations() -> None:
    rule = of("Convolution")
    site = site_of(
        rule, ((1, 2, 20, 20),), num_output=1, kernel_size=(3,), dilation_h=2, dilation_w=4
    )
    assert rule.shape(site) == ((1, 1, 16, 12),)


def test_a_slope_drawn_at_random_is_drawn_in_train() -> None:
    for kind in ("Insanity", "RReLU"):
        rule = of(kind)
        assert rule.draws(site_of(rule, ((N, C),)).settings, "TRAIN")
        assert not rule.draws(site_of(rule, ((N, C),)).settings, "TEST")
    insane = of("Insanity")
    in_place = site_of(insane, ((N, C),), in_place=True, lb=-2.0, ub=3.0)
    assert own("bottom_memory_").data in insane.memory(in_place, "gpu").forward
