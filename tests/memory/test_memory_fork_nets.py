"""Nets that need a fork of Caffe: memory and a plan with at most one hint, and what it counts.

The forks' own layers are counted here by formulas of each fork's Reshape, from the shapes of the
blobs; the numbers of parameters are those that the papers' authors and others publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pytest

import caffe_batch as cb
from caffe_batch.layers.base import Shape
from caffe_batch.memory.ledger import Part
from tests import fork_nets

FLOAT = 4
IMAGENET = {"data": (3, 256, 256)}


@dataclass(frozen=True)
class Case:
    """A net, the one hint that it needs, and what is known about it.

    Attributes:
        text: The net.
        hint: Shapes of its tops, where it has Python layers; in ImageNet's records otherwise.
        parameters: How many numbers it learns or keeps.
        fork: Which fork is guessed.
    """

    text: str
    parameters: int
    fork: str | None
    hint: Mapping[str, Any] = field(default_factory=dict)
    python: bool = False


def proposals_hint() -> dict[str, str]:
    tops = {"data", "im_info", "gt_boxes", "rpn_labels", "rpn_targets", "rpn_inside", "rpn_outside"}
    return {top: shape for top, shape in fork_nets.FASTER_RCNN_SHAPES.items() if top in tops}


#: Numbers that the moving averages of so many channels in so many layers add.
def averages(channels: int, layers: int) -> int:
    return 2 * channels + layers


CASES = {
    # 26.3 million in the paper; the same count in SSD's ports.
    "SSD-300": Case(fork_nets.ssd300(), 26_285_486, "ssd"),
    # VGG16's convolutions, 512 x 512 x 9 + 512 and the heads; two layers of 4096.
    "Faster R-CNN": Case(
        fork_nets.faster_rcnn(), 14_714_688 + 2_359_808 + 9_234 + 18_468 + 119_976_041,
        "rcnn", fork_nets.FASTER_RCNN_SHAPES, python=True,
    ),
    "proposals": Case(
        fork_nets.proposals_alone(), 14_714_688 + 2_359_808 + 9_234 + 18_468,
        "rcnn", proposals_hint(), python=True,
    ),
    "detector": Case(
        fork_nets.detector_alone(), 14_714_688 + 119_976_041, "rcnn",
        fork_nets.DETECTOR_SHAPES, python=True,
    ),
    # VGG16's convolutions; 4096 x 512 x 49, 4096 x 4096, scores of 4096, 512 and 256 channels,
    # two kernels of 4 x 4 and one of 16 x 16.
    "FCN-8s": Case(
        fork_nets.fcn8s(),
        14_714_688 + 102_764_544 + 16_781_312 + 86_037 + 10_773 + 5_397 + 2 * 7_056 + 112_896,
        None, {"data": "Nx3x500x500", "label": "Nx1x500x500"}, python=True,
    ),
    "PSPNet-50": Case(fork_nets.pspnet50(), 49_140_714, "pspnet"),
    "SegNet": Case(fork_nets.segnet(), 29_449_355, "segnet"),
    "ENet": Case(fork_nets.enet(), 251_185, "segnet"),
    # 3,504,872, 28,088,024: the numbers that torchvision's and others' models learn.
    "MobileNet-v2": Case(
        fork_nets.mobilenet_v2(), 3_504_872 + averages(17_056, 52), None, IMAGENET
    ),
    "MobileNet-v2, grouped": Case(
        fork_nets.mobilenet_v2(kind="DepthwiseConvolution"),
        3_504_872 + averages(17_056, 52), None, IMAGENET,
    ),
    "ShuffleNet": Case(fork_nets.shufflenet(), 1_890_257, None, IMAGENET),
    "SE-ResNet-50": Case(
        fork_nets.se_resnet50(), 28_088_024 + averages(26_560, 53), None, IMAGENET
    ),
}  # fmt: skip


def predicted(case: Case, folder: Path, **more: Any) -> cb.Memory:
    net = folder / "net.prototxt"
    net.write_text(case.text)
    if case.python:
        more.update(allow_unknown=True, batch_size=1)
    return cb.memory(net, input_shape=case.hint, **more)


@pytest.mark.parametrize("name", CASES)
def test_a_net_needs_no_more_than_one_hint(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = predicted(case, tmp_path)
    shapes = found.train.param_shapes.values()
    assert sum(prod(shape) for each in shapes for shape in each) == case.parameters
    chosen = found.model.recipe.fork
    assert (chosen.name if chosen else None) == case.fork
    # Their Python layers are those of public repositories, which have rules.
    assert found.unknown_layers == ()
    assert found.upper_bound_layers == (("mbox_loss",) if name == "SSD-300" else ())
    fork = found.json()["fork"]
    assert fork is None or fork["evidence"]


@pytest.mark.parametrize("name", CASES)
def test_a_net_can_be_planned(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    net = tmp_path / "net.prototxt"
    net.write_text(case.text)
    plan = cb.plan(
        net,
        input_shape=case.hint,
        effective_batch=8,
        gpu_memory="24GiB",
        check_data="none",
        allow_unknown=case.python,
        batch_size=1 if case.python else None,
    )
    assert plan.batch_size * plan.iter_size == 8
    assert plan.batch_size == 1 if case.python else plan.batch_size > 1
    assert plan.predicted_peak_bytes <= plan.budget.usable_bytes
    job = plan.write(tmp_path / "job")
    written = job.plan
    assert written.fork == case.fork


Counter = Callable[[Mapping[str, Any], list[Shape], list[Shape]], int]
"""Elements of a layer's own buffers on the GPU, from its settings and shapes."""


def _bn(settings: Mapping[str, Any], bottoms: list[Shape], tops: list[Shape]) -> int:
    samples, channels, height, width = bottoms[0]
    size, ones = prod(bottoms[0]), height * width + samples
    if settings["fork"] == "segnet":
        return 2 * size + 2 * samples * channels + 2 * channels + ones
    return 2 * size + samples * channels + 2 * channels + ones


def _normalize(settings: Mapping[str, Any], bottoms: list[Shape], tops: list[Shape]) -> int:
    samples, channels, height, width = bottoms[0]
    spatial = height * width
    return channels * spatial + samples * spatial + 2 * channels + 2 * spatial


def _depthwise(settings: Mapping[str, Any], bottoms: list[Shape], tops: list[Shape]) -> int:
    samples, channels, height, width = tops[0]
    return 9 * channels * samples * height * width + samples * height * width


COUNTERS: dict[str, Counter] = {
    "BN": _bn,
    "Normalize": _normalize,
    "ConvolutionDepthwise": _depthwise,
    "DepthwiseConvolution": lambda settings, bottoms, tops: 0,
    "Permute": lambda settings, bottoms, tops: 3 * len(bottoms[0]),
    "PriorBox": lambda settings, bottoms, tops: 0,
    "ROIPooling": lambda settings, bottoms, tops: prod(tops[0]),
    "SmoothL1Loss": lambda settings, bottoms, tops: 3 * prod(bottoms[0]),
    "Interp": lambda settings, bottoms, tops: 0,
    "Upsample": lambda settings, bottoms, tops: 0,
    "SegAccuracy": lambda settings, bottoms, tops: 0,
    "ShuffleChannel": lambda settings, bottoms, tops: 0,
    "Axpy": lambda settings, bottoms, tops: 0,
    "ReLU6": lambda settings, bottoms, tops: 0,
}


@pytest.mark.parametrize("name", CASES)
def test_the_forks_own_buffers_are_those_of_its_reshape(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = predicted(case, tmp_path)
    buffers = {each.name: each.parts.get(Part.LAYER_BUFFERS, 0) for each in found.layers}
    counted = 0
    for node in found.train.nodes:
        if node.layer.type not in COUNTERS:
            continue
        shapes = [[found.train.blobs[i].shape for i in each] for each in (node.bottoms, node.tops)]
        wanted = COUNTERS[node.layer.type]({"fork": case.fork}, *shapes)
        assert buffers[node.layer.name] == FLOAT * wanted, node.layer.name
        counted += 1
    assert counted or name == "FCN-8s"  # which has Caffe's own layers and a Python layer


def test_ssd_has_8732_boxes(tmp_path: Path) -> None:
    """38 x 38 x 4 + 19 x 19 x 6 + 10 x 10 x 6 + 5 x 5 x 6 + 3 x 3 x 4 + 4."""
    shapes = predicted(CASES["SSD-300"], tmp_path).json()["blobs"]
    assert shapes["mbox_priors"] == [1, 2, 4 * 8732]
    assert shapes["mbox_loc"] == [32, 4 * 8732]
    assert shapes["mbox_conf"] == [32, 21 * 8732]
    assert shapes["label"] == [1, 1, 1, 8]


def test_the_two_data_layers_of_ssd_read_three_batches_ahead(tmp_path: Path) -> None:
    found = predicted(CASES["SSD-300"], tmp_path, mode="gpu")
    ahead = next(each for each in found.layers if each.name == "data")
    image, box = 3 * 300 * 300, 8
    assert ahead.parts[Part.DATA_PREFETCH] == 3 * FLOAT * (32 * image + box)
    assert ahead.parts[Part.ACTIVATIONS] == FLOAT * (32 * image + box)


def test_the_most_that_ssds_loss_can_take(tmp_path: Path) -> None:
    """Every prior of every image matched: the loss inside works on all of them.

    Locations and targets, differences, errors and a gradient: 5 x 4 numbers a prior. Confidences
    and their gradient, probabilities and counts: 4 x 21. A label and a scale. Mining, which is
    certain, has probabilities of its own for a while, a scale, matches and losses: 21 + 3.
    """
    found = predicted(CASES["SSD-300"], tmp_path)
    rows = 32 * 8732
    most = FLOAT * rows * (5 * 4 + 4 * 21 + 2)
    loss = next(each for each in found.layers if each.name == "mbox_loss")
    assert found.uncertain_bytes == most
    assert loss.parts[Part.LAYER_BUFFERS] == most + FLOAT * rows * (21 + 3)


def test_older_forks_and_caffe_1_differ_by_how_far_they_read_ahead(tmp_path: Path) -> None:
    """The same net: Caffe 1.0 has four batches and no top; SSD three batches and a top."""
    case = CASES["SE-ResNet-50"]
    own, ssd, segnet = (
        predicted(case, tmp_path, fork=fork).peak_bytes for fork in (None, "ssd", "segnet")
    )
    data = FLOAT * 32 * 3 * 224 * 224
    labels = FLOAT * 32
    assert own == ssd  # 4 = 3 + 1
    assert own - segnet == 3 * (data + labels)


def test_an_unknown_fork_is_named(tmp_path: Path) -> None:
    with pytest.raises(cb.InputError, match="'sdd'") as error:
        predicted(CASES["SSD-300"], tmp_path, fork="sdd")
    assert "ssd" in str(error.value.hint)
