"""Losses and scores: shapes judged by real Caffe, and which memory they touch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caffe_batch.errors import ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape, Site
from caffe_batch.layers.sides import bottom, own
from tests.layers.caffe_judge import (
    Built,
    caffe_builds,
    disagreements,
    layer_text,
    one_layer_net,
    we_build,
)

DATA, LABELS = (2, 3, 5, 7), (2, 5, 7)
TWO_WEIGHTS = "loss_weight: 1 loss_weight: 0"


def net(layer_type: str, settings_text: str, *bottoms: Shape, tops: int = 1) -> str:
    layer = layer_text(layer_type, settings_text, bottoms=len(bottoms), tops=tops)
    return one_layer_net(layer, *bottoms)


ACCEPTED = [
    net("Accuracy", "", DATA, LABELS),
    net("Accuracy", "accuracy_param { top_k: 3 }", DATA, LABELS, tops=2),
    net("Accuracy", "accuracy_param { axis: -1 top_k: 7 }", DATA, (2, 3, 5), tops=2),
    net("Accuracy", "accuracy_param { top_k: 0 }", DATA, (70,)),
    net("SoftmaxWithLoss", "", DATA, LABELS),
    net("SoftmaxWithLoss", "", (11, 3), (11,), tops=0),
    net("SoftmaxWithLoss", "", (2, 3, 5), (2, 5, 1, 1)),
    net("SoftmaxWithLoss", "softmax_param { axis: -1 }", DATA, (2, 3, 5)),
    net("SoftmaxWithLoss", "loss_weight: 0 loss_param { normalize: true }", DATA, LABELS),
    net("SigmoidCrossEntropyLoss", "", DATA, (2, 105)),
    net("SigmoidCrossEntropyLoss", "loss_weight: 3", (2,), (2,)),
    net("EuclideanLoss", "", DATA, (2, 105)),
    net("EuclideanLoss", "", (2, 3, 5, 7, 1), DATA),
    net("ContrastiveLoss", "", (11, 3), (11, 3), (11,)),
    net("ContrastiveLoss", "", (11, 3, 1, 1), (11, 3), (13,)),
    net("HingeLoss", "", DATA, (2, 13)),
    net("MultinomialLogisticLoss", "", DATA, (2,)),
    net("MultinomialLogisticLoss", "", (11, 3), (11, 1, 1, 1)),
    net("InfogainLoss", "", DATA, LABELS, (3, 3)),
    net("InfogainLoss", TWO_WEIGHTS, DATA, LABELS, (9,), tops=2),
    net("InfogainLoss", "infogain_loss_param { axis: -1 }", DATA, (2, 3, 5), (7, 7)),
    net("InfogainLoss", "loss_param { normalization: FULL }", DATA, LABELS, (1, 9), tops=0),
]

REFUSED = [
    net("Accuracy", "", DATA, (2,)),
    net("Accuracy", "accuracy_param { top_k: 4 }", DATA, LABELS),
    net("Accuracy", "accuracy_param { axis: 4 }", DATA, LABELS),
    net("Accuracy", "", DATA),
    net("Accuracy", "", DATA, LABELS, tops=3),
    net("Accuracy", "", (0, 3), (0,)),
    net("SoftmaxWithLoss", "", DATA, (2,)),
    net("SoftmaxWithLoss", "", DATA, (70,)),
    net("SoftmaxWithLoss", "", DATA, LABELS, tops=2),
    net("SoftmaxWithLoss", TWO_WEIGHTS, DATA, LABELS, tops=2),
    net("SoftmaxWithLoss", "softmax_param { axis: 0 }", (2, 3), (3,)),
    net("SoftmaxWithLoss", "", (0, 3), (0,)),
    net("SoftmaxWithLoss", "loss_weight: 0", (5, 0), (5,)),
    net("SoftmaxWithLoss", "", DATA),
    net("SigmoidCrossEntropyLoss", "", DATA, (2, 104)),
    net("SigmoidCrossEntropyLoss", "", DATA, (3, 70)),
    net("SigmoidCrossEntropyLoss", "", DATA, DATA, tops=2),
    net("SigmoidCrossEntropyLoss", "loss_weight: 3", (0, 3), (0, 3)),
    net("EuclideanLoss", "", DATA, (2, 3)),
    net("EuclideanLoss", "", DATA, (3, 105)),
    net("EuclideanLoss", "", (), ()),
    net("ContrastiveLoss", "", (11, 3), (11, 5), (11,)),
    net("ContrastiveLoss", "", (11, 3), (7, 3), (11,)),
    net("ContrastiveLoss", "", (11, 3, 2), (11, 3, 2), (11,)),
    net("ContrastiveLoss", "", (11, 3), (11, 3), (11, 2)),
    net("ContrastiveLoss", "", (11, 3), (11, 3)),
    net("ContrastiveLoss", "", (11, 3, 1, 1, 1), (11, 3), (11,)),
    net("HingeLoss", "", DATA, (3,)),
    net("MultinomialLogisticLoss", "", DATA, (2, 3)),
    net("MultinomialLogisticLoss", "", DATA, (2, 1, 1, 1, 1)),
    net("InfogainLoss", "", DATA, LABELS),
    net("InfogainLoss", "", DATA, LABELS, (3, 2)),
    net("InfogainLoss", "", DATA, LABELS, (3, 3), tops=2),
    net("InfogainLoss", "loss_param { normalize: true }", DATA, LABELS, (3, 3)),
    net("InfogainLoss", "infogain_loss_param { axis: 2 }", DATA, LABELS, (5, 5)),
]


@pytest.fixture(scope="module")
def verdicts(pycaffe: Callable[..., str]) -> dict[str, Built | None]:
    nets = ACCEPTED + REFUSED
    return dict(zip(nets, caffe_builds(pycaffe, nets), strict=True))


@pytest.mark.parametrize("text", ACCEPTED)
def test_shapes_are_caffes(text: str, verdicts: dict[str, Built | None]) -> None:
    assert verdicts[text] is not None
    assert we_build(text) == verdicts[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_caffe_refuses_is_refused(text: str, verdicts: dict[str, Built | None]) -> None:
    assert verdicts[text] is None
    assert we_build(text) is None


def test_labels_that_caffe_reads_beyond_are_refused(pycaffe: Callable[..., str]) -> None:
    """Caffe builds it, and takes what lies behind the labels for labels."""
    text = net("ContrastiveLoss", "", (11, 3), (11, 3), (7,))
    assert caffe_builds(pycaffe, [text]) != [None]
    assert we_build(text) is None


sizes = st.sampled_from([1, 2, 3, 5, 7, 2, 3, 5, 7, 0])
shapes = st.lists(sizes, max_size=5).map(tuple)
LOSSES = ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "EuclideanLoss", "HingeLoss",
          "MultinomialLogisticLoss")  # fmt: skip


@st.composite
def labelled(draw: st.DrawFn) -> str:
    """A loss or score with labels that mostly fit."""
    data, axis = draw(shapes), draw(st.integers(-3, 3))
    by_axis = f"axis: {axis}"
    fits = [data, data[:1], data[: axis % 5] + data[axis % 5 + 1 :], draw(shapes)]
    labels = draw(st.sampled_from(fits))
    weight = draw(st.sampled_from(["", "loss_weight: 0", "loss_weight: 2"]))
    return draw(
        st.sampled_from(
            [
                net("Accuracy", f"accuracy_param {{ {by_axis} }}", data, labels),
                net("SoftmaxWithLoss", f"{weight} softmax_param {{ {by_axis} }}", data, labels),
                net("InfogainLoss", f"{weight} infogain_loss_param {{ {by_axis} }}", data, labels,
                    (draw(sizes),) * 2),
                net("ContrastiveLoss", weight, data[:2], data[:2], labels),
                *(net(loss, weight, data, labels) for loss in LOSSES),
            ]
        )
    )  # fmt: skip


@settings(
    max_examples=3,
    phases=(Phase.generate,),  # each try costs a process: a failing list is printed, not shrunk
    suppress_health_check=list(HealthCheck),
)
@given(nets=st.lists(labelled(), min_size=40, max_size=60, unique=True))
def test_any_labels_agree_with_caffe(pycaffe: Callable[..., str], nets: list[str]) -> None:
    assert disagreements(pycaffe, nets) == []


def loss_site(layer_type: str, *bottoms: Shape, need: tuple[bool, ...], tops: int = 1) -> Site:
    rule = BUILT_IN[layer_type]
    return Site(
        phase="TRAIN",
        settings=rule.settings() if rule.settings else None,
        bottoms=bottoms,
        tops=tops,
        backward=True,
        bottom_need=need,
    )


@pytest.mark.parametrize("layer_type", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "HingeLoss",
                                        "MultinomialLogisticLoss", "InfogainLoss"])  # fmt: skip
def test_labels_that_ask_for_a_gradient_are_refused(layer_type: str) -> None:
    site = loss_site(layer_type, (11, 3), (11,), need=(True, True))
    with pytest.raises(ShapeError, match=r"no gradient for the (labels|targets) \(bottom 1\)"):
        BUILT_IN[layer_type].memory(site, "gpu")


@pytest.mark.parametrize(
    ("layer_type", "labels"),
    [("EuclideanLoss", (2, 210)), ("HingeLoss", (2,)), ("MultinomialLogisticLoss", (2,))],
)
def test_five_axes_are_refused_where_forward_aborts(layer_type: str, labels: Shape) -> None:
    site = loss_site(layer_type, (2, 3, 5, 7, 2), labels, need=(True, False))
    with pytest.raises(ShapeError, match="takes at most 4"):
        BUILT_IN[layer_type].memory(site, "cpu")


def test_scratch_on_the_gpu_is_the_diff_of_the_bottoms() -> None:
    softmax = BUILT_IN["SoftmaxWithLoss"].memory(
        loss_site("SoftmaxWithLoss", (11, 3), (11,), need=(False, False)), "gpu"
    )
    assert {bottom(0).diff, own("prob_").diff} <= set(softmax.forward)
    assert softmax.backward == ()
    accuracy = BUILT_IN["Accuracy"]
    one, two = (
        accuracy.memory(loss_site("Accuracy", (11, 3), (11,), need=(False, False), tops=n), "gpu")
        for n in (1, 2)
    )
    assert bottom(1).diff in one.forward
    assert bottom(1).diff not in two.forward
    assert [(buffer.name, buffer.count) for buffer in two.buffers] == [("nums_buffer_", 33)]


def test_losses_without_gpu_code_leave_the_device_alone() -> None:
    for layer_type in ("HingeLoss", "MultinomialLogisticLoss"):
        site = loss_site(layer_type, (11, 3), (11,), need=(True, False))
        memory = BUILT_IN[layer_type].memory(site, "gpu")
        assert memory.forward == memory.backward == ()
