"""The Python layers of public repositories: shapes worked out from their code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Shape, Site
from caffe_batch.layers.given import WholeShape
from caffe_batch.layers.loading import installed_rules
from caffe_batch.layers.unknown import UnknownSettings
from caffe_batch.net import Sources
from caffe_batch.net.assumed import known_of
from caffe_batch.net.forks import choose_fork
from tests.command import call

#: Faster R-CNN end to end, with a trunk of one convolution of stride 16.
FASTER = """
layer { name: "input-data" type: "Python" top: "data" top: "im_info" top: "gt_boxes"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 21" } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 16 stride: 16 weight_filler { type: "xavier" } } }
layer { name: "rpn_cls_score" type: "Convolution" bottom: "conv" top: "rpn_cls_score"
  convolution_param { num_output: 18 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "rpn_bbox_pred" type: "Convolution" bottom: "conv" top: "rpn_bbox_pred"
  convolution_param { num_output: 36 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "reshape" type: "Reshape" bottom: "rpn_cls_score" top: "two"
  reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } } }
layer { name: "rpn-data" type: "Python" bottom: "rpn_cls_score" bottom: "gt_boxes"
  bottom: "im_info" bottom: "data" top: "rpn_labels" top: "targets" top: "inside" top: "outside"
  python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" param_str: "'feat_stride': 16" } }
layer { name: "rpn_loss" type: "SoftmaxWithLoss" bottom: "two" bottom: "rpn_labels" top: "rpn_loss"
  propagate_down: true propagate_down: false loss_param { ignore_label: -1 normalize: true } }
layer { name: "rpn_box" type: "SmoothL1Loss" bottom: "rpn_bbox_pred" bottom: "targets"
  bottom: "inside" bottom: "outside" top: "rpn_box" loss_weight: 1 }
layer { name: "prob" type: "Softmax" bottom: "two" top: "prob" }
layer { name: "back" type: "Reshape" bottom: "prob" top: "back"
  reshape_param { shape { dim: 0 dim: 18 dim: -1 dim: 0 } } }
layer { name: "proposal" type: "Python" bottom: "back" bottom: "rpn_bbox_pred" bottom: "im_info"
  top: "rpn_rois" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "'feat_stride': 16" } }
layer { name: "roi-data" type: "Python" bottom: "rpn_rois" bottom: "gt_boxes" top: "rois"
  top: "labels" top: "bbox_targets" top: "bbox_inside" top: "bbox_outside"
  python_param { module: "rpn.proposal_target_layer" layer: "ProposalTargetLayer" param_str: "'num_classes': 21" } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_w: 7 pooled_h: 7 spatial_scale: 0.0625 } }
layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score"
  inner_product_param { num_output: 21 weight_filler { type: "xavier" } } }
layer { name: "box" type: "InnerProduct" bottom: "pool" top: "box"
  inner_product_param { num_output: 84 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "labels" top: "loss"
  propagate_down: true propagate_down: false }
layer { name: "box_loss" type: "SmoothL1Loss" bottom: "box" bottom: "bbox_targets"
  bottom: "bbox_inside" bottom: "bbox_outside" top: "box_loss" loss_weight: 1 }
"""  # noqa: E501


def made(
    layer: str,
    bottoms: tuple[Shape, ...],
    tops: int,
    phase: Any = "TRAIN",
    text: str = "",
    given: tuple[Any, ...] = (),
) -> tuple[Shape, ...]:
    """The shapes of a layer's tops."""
    rule = installed_rules()[f"Python:{layer}"]
    settings = UnknownSettings(given, batch_size=1, text=text)
    site = Site(phase, settings, bottoms, tops, in_place=(False,) * tops)
    return rule.shape(site)


def data(layer: str, tops: str, text: str = "", **given: Any) -> dict[str, str]:
    """What a Python layer without bottoms is known to make, by top."""
    module, _, name = layer.rpartition(".")
    written = " ".join(f'top: "{top}"' for top in tops.split())
    net = prototxt.parse_net(
        f'layer {{ name: "data" type: "Python" {written} python_param {{ module: "{module}" '
        f'layer: "{name}" param_str: "{text}" }} }}'
    )
    rule = installed_rules()[f"Python:{layer}"]
    known = known_of(net.layer[0], rule, Sources(input_shapes=given))
    return dict(zip(tops.split(), map(str, known.given), strict=True))


def test_anchors_have_a_label_and_four_numbers_each() -> None:
    layer = "rpn.anchor_target_layer.AnchorTargetLayer"
    boxes = (1, 36, 38, 63)
    found = made(layer, ((1, 18, 38, 63), (7, 5), (1, 3), (1, 3, 600, 1000)), 4)
    assert found == ((1, 1, 9 * 38, 63), boxes, boxes, boxes)


def test_anchors_of_another_code_take_the_shapes_that_the_user_gives() -> None:
    layer = "rpn.anchor_target_layer.AnchorTargetLayer"
    with pytest.raises(ShapeError, match="its scores have 4 axes") as raised:
        made(layer, ((1, 2, 25044),), 4)
    assert raised.value.hint is not None
    assert "input_shape" in raised.value.hint
    given = (WholeShape((1, 25044)), *[WholeShape((1, 4, 25044))] * 3)
    assert made(layer, ((1, 2, 25044),), 4, given=given) == ((1, 25044), *[(1, 4, 25044)] * 3)


@pytest.mark.parametrize(("phase", "regions"), [("TRAIN", 2000), ("TEST", 300)])
def test_as_many_regions_as_the_phase_keeps(phase: str, regions: int) -> None:
    found = made("rpn.proposal_layer.ProposalLayer", ((1, 18, 38, 63),), 2, phase)
    assert found == ((regions, 5), (regions, 1))


def test_regions_are_drawn_with_a_box_for_each_class() -> None:
    layer = "rpn.proposal_target_layer.ProposalTargetLayer"
    boxes = (128, 44)
    found = made(layer, ((2000, 5), (7, 5)), 5, text="'num_classes': 11")
    assert found == ((128, 5), (128, 1), boxes, boxes, boxes)
    with pytest.raises(ShapeError, match="doesn't say num_classes"):
        made(layer, ((2000, 5), (7, 5)), 5)


def test_one_image_with_boxes_or_two_with_regions() -> None:
    layer = "roi_data_layer.layer.RoIDataLayer"
    assert data(layer, "data im_info gt_boxes") == {
        "data": "1x3x600x1000",
        "im_info": "1x3",
        "gt_boxes": "1x5",
    }
    found = data(layer, "data rois labels targets inside outside", "'num_classes': 11")
    assert found == {
        "data": "2x3x600x1000",
        "rois": "128x5",
        "labels": "128",
        "targets": "128x44",
        "inside": "128x44",
        "outside": "128x44",
    }


def test_labels_follow_the_size_of_the_image() -> None:
    layer = "voc_layers.VOCSegDataLayer"
    assert data(layer, "data label") == {"data": "1x3x500x500", "label": "1x1x500x500"}
    found = data(layer, "data label", data=(3, 375, 501))
    assert found == {"data": "1x3x375x501", "label": "1x1x375x501"}
    found = data("siftflow_layers.SIFTFlowSegDataLayer", "data sem geo")
    assert found == {"data": "1x3x256x256", "sem": "1x1x256x256", "geo": "1x1x256x256"}


def test_the_param_str_says_which_tops_have_three_channels() -> None:
    names = ", ".join(rf"\'{name}\'" for name in ("color", "depth", "label"))
    text = rf"{{\'tops\': [{names}], \'split\': \'trainval\'}}"
    found = data("nyud_layers.NYUDSegDataLayer", "color depth label", text)
    assert found == {"color": "1x3x425x560", "depth": "1x1x425x560", "label": "1x1x425x560"}


def test_a_net_that_any_caffe_runs_is_of_no_fork() -> None:
    text = 'layer { type: "Python" python_param { module: "voc_layers" layer: "VOCSegDataLayer" } }'
    assert choose_fork([prototxt.parse_net(text)], None) is None
    text = text.replace("voc_layers", "rpn.proposal_layer").replace("VOCSegData", "Proposal")
    choice = choose_fork([prototxt.parse_net(text)], None)
    assert choice is not None
    assert choice.name == "rcnn"
    assert choice.evidence == ("ProposalLayer (Python)",)
    assert choose_fork([prototxt.parse_net(text)], "ssd") == replace(
        choice, name="ssd", given=True, foreign=()
    )


def test_faster_rcnn_needs_no_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(FASTER)
    done = call("memory", "net.prototxt", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    blobs = found["blobs"]
    assert blobs["data"] == [1, 3, 600, 1000]
    assert blobs["rpn_labels"] == [1, 1, 9 * 37, 62]
    assert blobs["pool"] == [128, 4, 7, 7]
    assert found["lower_bound"] is False
    shapes = [each["layer"] for each in found["assumptions"] if each["what"] == "shapes"]
    assert shapes == ["input-data", "proposal", "roi-data"]
    plan = call("plan", "net.prototxt", "--gpu-memory", "2GiB", "--effective-batch", "4", "--json")
    assert plan.code == 0, plan.err
    assert (json.loads(plan.out)["batch_size"], json.loads(plan.out)["iter_size"]) == (1, 4)
    causes = {each["cause"]: each["verdict"] for each in json.loads(plan.out)["audit"]}
    # Its anchors are those of one image: no size to compare with, and yet the draws are known.
    assert causes["literal_batch"] == "unknown"
    assert causes["random_draws"] == "approximate"
    smaller = call("memory", "net.prototxt", "--input-shape", "data=3x320x480", "--json")
    assert json.loads(smaller.out)["blobs"]["conv"] == [1, 4, 20, 30]
    sizes = ("rois:64x5", "labels:64", "bbox_targets:64x84", "bbox_inside:64x84")
    given = [word for size in (*sizes, "bbox_outside:64x84") for word in ("--input-shape", size)]
    regions = call("memory", "net.prototxt", *given, "--json")
    assert json.loads(regions.out)["blobs"]["pool"] == [64, 4, 7, 7]


def test_an_error_names_what_is_only_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(
        FASTER + 'layer { name: "crop" type: "Slice" bottom: "im_info" top: "a" top: "b" }'
    )
    done = call("memory", "net.prototxt")
    assert done.code == 2
    assert "note: Layer 'input-data' (Python) is taken to make images of 600 x 1000" in done.err
    assert done.err.splitlines()[-1] == (
        "All in one: caffe-batch memory net.prototxt --input-shape data=3xHxW"
    )
