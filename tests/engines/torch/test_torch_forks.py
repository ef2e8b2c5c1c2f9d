"""The layer types of forks on the PyTorch engine, beside formulas written out as loops.

The formulas follow what each fork's CPU or GPU code does, in numpy and one element after the other;
gradients are compared with differences of the loss in double precision, except where a fork's
Backward isn't the derivative: those tests say what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.fork_types import RUNNING, SAME
from caffe_batch.engines.torch.layers.forks import FORK_LAYERS
from caffe_batch.engines.torch.net import Pass, TorchNet
from caffe_batch.engines.torch.refusals import departures, refusals
from caffe_batch.errors import InputError, NetError
from caffe_batch.layers.loading import rules_with
from caffe_batch.net import NetFile
from caffe_batch.net.filtering import net_state
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import parse_net
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.in_process import train_here

Array = NDArray[np.float64]
MAPS = (2, 6, 5, 7)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for each other are slow on a busy machine."""
    torch.set_num_threads(1)


def numbers(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


class Layer:
    """One layer of a fork, in double precision, between an Input and its tops."""

    def __init__(
        self, text: str, feeds: Mapping[str, Array], *, fork: str, phase: str = "TRAIN"
    ) -> None:
        shapes = " ".join(
            f"shape {{ {' '.join(f'dim: {size}' for size in feed.shape)} }}"
            for feed in feeds.values()
        )
        tops = " ".join(f'top: "{name}"' for name in feeds)
        whole = (
            f'force_backward: true layer {{ name: "in" type: "Input" {tops} '
            f"input_param {{ {shapes} }} }} {text}"
        )
        message = parse_net(whole)
        state = net_state("TRAIN" if phase == "TRAIN" else "TEST", message, caffe_pb2.NetState())
        file = NetFile(message, None, state, rules_with((), fork))
        self.graph = file.build(file.layers(Sources(())))
        selected = [layer for _, layer in file.selected()]
        self.net = TorchNet(self.graph, selected, dtype=torch.float64, draws=Draws(3))
        self.feeds = feeds

    def run(self, **changed: Array) -> tuple[Pass, dict[str, torch.Tensor]]:
        fed = {
            name: torch.from_numpy(np.array(changed.get(name, feed))).requires_grad_(True)
            for name, feed in self.feeds.items()
        }
        return self.net.forward(fed, list(self.graph.blob_shapes)), fed

    def top(self, name: str = "top") -> Array:
        return self.run()[0].blobs[name].detach().numpy()

    def set(self, index: int, value: Array) -> None:
        with torch.no_grad():
            param = self.net.params[index].value
            param.copy_(torch.from_numpy(value).reshape(param.shape))

    def gradients(self, weights: Array | None = None, top: str = "top") -> dict[str, Array]:
        """Those of the inputs and the parameters; ``weights`` times the top is the loss."""
        done, fed = self.run()
        out = done.blobs[top]
        factors = torch.ones_like(out) if weights is None else torch.from_numpy(weights)
        torch.autograd.backward((out * factors).sum())
        found = {name: tensor.grad for name, tensor in fed.items()}
        found |= {f"#{i}": param.value.grad for i, param in enumerate(self.net.params)}
        return {name: grad.numpy() for name, grad in found.items() if grad is not None}

    def differences(self, name: str, weights: Array, top: str = "top") -> Array:
        """The derivative by an input or a parameter (``#0``), from differences."""
        h, is_param = 1e-6, name.startswith("#")
        param = self.net.params[int(name[1:])].value if is_param else None
        start = np.array(self.feeds[name] if param is None else param.detach().numpy())
        found = np.empty(start.size)
        for i in range(start.size):
            sides = []
            for sign in (1, -1):
                moved = start.copy()
                moved.reshape(-1)[i] += sign * h
                if is_param:
                    self.set(int(name[1:]), moved)
                    done = self.run()[0]
                else:
                    done = self.run(**{name: moved})[0]
                sides.append(float((done.blobs[top].detach().numpy() * weights).sum()))
            found[i] = (sides[0] - sides[1]) / (2 * h)
        if is_param:
            self.set(int(name[1:]), start)
        return found.reshape(start.shape)


def one(kind: str, settings: str = "", bottoms: str = 'bottom: "x"') -> str:
    return f'layer {{ name: "l" type: "{kind}" {bottoms} top: "top" {settings} }}'


def test_the_list_without_torch_is_the_list_of_classes() -> None:
    assert set(FORK_LAYERS) == RUNNING
    assert not RUNNING & SAME


# Formulas, an element at a time


def axpy(x: Mapping[str, Array]) -> Array:
    return x["s"].reshape(2, 6, 1, 1) * x["x"] + x["y"]


def shuffled(x: Mapping[str, Array]) -> Array:
    found = np.empty_like(x["x"])
    for c in range(6):  # three groups of two: channel c goes where its group and number say
        group, number = divmod(c, 2)
        found[:, number * 3 + group] = x["x"][:, c]
    return found


def permuted(x: Mapping[str, Array]) -> Array:
    return np.stack([[x["x"][n, :, h].T for h in range(5)] for n in range(2)])


def flipped(x: Mapping[str, Array]) -> Array:
    return np.array(x["x"][:, :, ::-1])


def normalized(x: Mapping[str, Array]) -> Array:
    found = np.empty_like(x["x"])
    for n, h, w in np.ndindex(2, 5, 7):
        norm = math.sqrt(sum(v * v for v in x["x"][n, :, h, w]) + 1e-10)
        for c in range(6):
            found[n, c, h, w] = x["x"][n, c, h, w] / norm * 20
    return found


def normalized_whole(x: Mapping[str, Array]) -> Array:
    return np.stack([each / math.sqrt((each**2).sum() + 1e-10) * 3 for each in x["x"]])


def of_length_1(x: Mapping[str, Array]) -> Array:
    return np.stack([x["x"][:, :, h] / np.sqrt((x["x"][:, :, h] ** 2).sum(1))[:, None]
                     for h in range(5)], 2)  # fmt: skip


def relu6(x: Mapping[str, Array]) -> Array:
    return np.array([min(max(v, 0), 6) for v in x["x"].flat]).reshape(MAPS)


def selu(x: Mapping[str, Array]) -> Array:
    return np.array(
        [1.050701 * (v if v > 0 else 1.6732632 * (math.exp(v) - 1)) for v in x["x"].flat]
    ).reshape(MAPS)


def interp(x: Mapping[str, Array]) -> Array:
    """interp.cpp: the corners of both lie on each other."""
    found = np.empty((2, 6, 9, 13))
    for h, w in np.ndindex(9, 13):
        y, z = h * 4 / 8, w * 6 / 12
        a, b = int(y), int(z)
        down, right = int(a < 4), int(b < 6)
        p, q = y - a, z - b
        found[:, :, h, w] = (1 - p) * (
            (1 - q) * x["x"][:, :, a, b] + q * x["x"][:, :, a, b + right]
        ) + p * ((1 - q) * x["x"][:, :, a + down, b] + q * x["x"][:, :, a + down, b + right])
    return found


def repeated(x: Mapping[str, Array]) -> Array:
    found = np.empty((2, 6, 10, 14))
    for h, w in np.ndindex(10, 14):
        found[:, :, h, w] = x["x"][:, :, h // 2, w // 2]
    return found


def depthwise(x: Mapping[str, Array]) -> Array:
    found = np.zeros((2, 6, 3, 4))
    padded = np.pad(x["x"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, c, h, w in np.ndindex(2, 6, 3, 4):
        found[n, c, h, w] = padded[n, c, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3].sum() * 0.5
    return found


def smooth(v: float, sigma2: float = 1) -> float:
    return 0.5 * v * v * sigma2 if abs(v) < 1 / sigma2 else abs(v) - 0.5 / sigma2


def ssd_boxes(x: Mapping[str, Array]) -> Array:
    pairs = zip(x["x"].flat, x["y"].flat, x["w"].flat, strict=True)
    return np.array(sum(smooth(w * (a - b)) for a, b, w in pairs) / 4)


def rcnn_boxes(x: Mapping[str, Array]) -> Array:
    rows = zip(*(x[name].flat for name in "xywv"), strict=True)
    return np.array(sum(v * smooth(w * (a - b), 9) for a, b, w, v in rows) / 4)


def pooled_averages(x: Mapping[str, Array]) -> Array:
    """psroi_pooling_layer.cu, with boxes in the map."""
    found = np.zeros((3, 2, 2, 2))
    maps = x["x"]
    for r, roi in enumerate(x["rois"]):
        left, top = (round(v) * 0.5 for v in roi[1:3])
        right, bottom = ((round(v) + 1) * 0.5 for v in roi[3:5])
        for c, i, j in np.ndindex(2, 2, 2):
            high, wide = (bottom - top) / 2, (right - left) / 2
            rows = range(
                max(0, math.floor(i * high + top)), min(8, math.ceil((i + 1) * high + top))
            )
            columns = range(
                max(0, math.floor(j * wide + left)), min(9, math.ceil((j + 1) * wide + left))
            )
            cell = [maps[int(roi[0]), (c * 2 + i) * 2 + j, h, w] for h in rows for w in columns]
            found[r, c, i, j] = sum(cell) / len(cell) if cell else 0
    return found


def pooled_maxima(x: Mapping[str, Array]) -> Array:
    """roi_pooling_layer.cpp, with boxes in the map."""
    found = np.zeros((3, 8, 3, 2))
    for r, roi in enumerate(x["rois"]):
        left, top, right, bottom = (math.floor(v * 0.5 + 0.5) for v in roi[1:])
        high, wide = max(bottom - top + 1, 1) / 3, max(right - left + 1, 1) / 2
        for c, i, j in np.ndindex(8, 3, 2):
            rows = range(
                min(max(math.floor(i * high) + top, 0), 8),
                min(max(math.ceil((i + 1) * high) + top, 0), 8),
            )
            columns = range(
                min(max(math.floor(j * wide) + left, 0), 9),
                min(max(math.ceil((j + 1) * wide) + left, 0), 9),
            )
            cell = [x["x"][int(roi[0]), c, h, w] for h in rows for w in columns]
            found[r, c, i, j] = max(cell) if cell else 0
    return found


ROIS = np.array([[0, 1, 2, 11, 13], [1, 4, 0, 7, 3], [1, 0, 6, 16, 9]], np.float64)
BOXES = {name: numbers(4, 8, seed=n) for n, name in enumerate("xywv")}
X = {"x": numbers(*MAPS)}
LARGE = {"x": 5 * numbers(*MAPS)}
FILL = (
    "convolution_param { kernel_size: 3 stride: 2 pad: 1 bias_term: false "
    "weight_filler { value: 0.5 }"
)

CASES: list[tuple[str, str, str, dict[str, Array], Any]] = [
    ("Axpy", "ssd", one("Axpy", bottoms='bottom: "s" bottom: "x" bottom: "y"'),
     {"s": numbers(2, 6, 1, 1, seed=2), "x": numbers(*MAPS), "y": numbers(*MAPS, seed=3)}, axpy),
    ("ShuffleChannel", "ssd", one("ShuffleChannel", "shuffle_channel_param { group: 3 }"), X,
     shuffled),
    ("Permute", "ssd", one("Permute", "permute_param { order: 0 order: 2 order: 3 }"), X, permuted),
    ("Flip", "ssd", one("Flip", "flip_param { flip_width: false flip_height: true }"), X, flipped),
    ("Normalize", "ssd", one("Normalize", "norm_param { across_spatial: false channel_shared: "
     "false scale_filler { value: 20 } }"), X, normalized),
    ("Normalize whole", "ssd", one("Normalize", "norm_param { scale_filler { value: 3 } }"), X,
     normalized_whole),
    ("L2Normalization", "ssd", one("L2Normalization"), X, of_length_1),
    ("ReLU6", "ssd", one("ReLU6"), LARGE, relu6),
    ("SeLu", "ssd", one("SeLu"), X, selu),
    ("Interp", "pspnet", one("Interp", "interp_param { height: 9 width: 13 }"), X, interp),
    ("Interp zoomed", "pspnet", one("Interp", "interp_param { zoom_factor: 2 }"), X, interp),
    ("Upsample", "segnet", one("Upsample", "upsample_param { scale: 2 }"), X, repeated),
    ("ConvolutionDepthwise", "ssd", one("ConvolutionDepthwise", FILL + " num_output: 6 }"), X,
     depthwise),
    ("DepthwiseConvolution", "ssd", one("DepthwiseConvolution", FILL + " num_output: 6 group: 6 }"),
     X, depthwise),
    ("SmoothL1Loss of SSD", "ssd", one("SmoothL1Loss",
     bottoms='bottom: "x" bottom: "y" bottom: "w"'),
     {name: BOXES[name] for name in "xyw"}, ssd_boxes),
    ("SmoothL1Loss of Faster R-CNN", "rcnn", one("SmoothL1Loss",
     "loss_weight: 1 smooth_l1_loss_param { sigma: 3 }",
     'bottom: "x" bottom: "y" bottom: "w" bottom: "v"'), BOXES, rcnn_boxes),
    ("PSROIPooling", "rcnn", one("PSROIPooling",
     "psroi_pooling_param { spatial_scale: 0.5 output_dim: 2 group_size: 2 }",
     'bottom: "x" bottom: "rois"'), {"x": numbers(2, 8, 8, 9), "rois": ROIS}, pooled_averages),
    ("ROIPooling", "rcnn", one("ROIPooling",
     "roi_pooling_param { spatial_scale: 0.5 pooled_h: 3 pooled_w: 2 }",
     'bottom: "x" bottom: "rois"'), {"x": numbers(2, 8, 8, 9), "rois": ROIS}, pooled_maxima),
]  # fmt: skip


NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "fork", "text", "feeds", "formula"), CASES, ids=NAMES)
def test_a_layer_follows_its_formula_and_its_gradient_the_differences(
    name: str, fork: str, text: str, feeds: dict[str, Array], formula: Any
) -> None:
    layer = Layer(text, feeds, fork=fork)
    assert list(refusals(layer.graph))[1:] == []  # the first one is the Input
    expected = formula(feeds)
    assert layer.top() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    weights = numbers(*expected.shape, seed=9)
    found = layer.gradients(weights)
    assert "x" in found
    for blob, gradient in found.items():
        if blob not in ("rois", "w", "v"):
            differences = layer.differences(blob, weights)
            assert gradient == pytest.approx(differences, rel=1e-5, abs=1e-6), name


def test_the_first_of_equal_values_in_a_region_gets_the_gradient() -> None:
    feeds = {"x": np.zeros((1, 1, 4, 4)), "rois": np.array([[0, 0, 0, 3, 3]], np.float64)}
    text = one("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }",
               'bottom: "x" bottom: "rois"')  # fmt: skip
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    assert np.array_equal(Layer(text, feeds, fork="rcnn").gradients()["x"][0, 0], expected)


def test_a_region_of_a_sample_that_is_not_there_is_said() -> None:
    feeds = {"x": np.zeros((1, 1, 4, 4)), "rois": np.array([[2, 0, 0, 3, 3]], np.float64)}
    text = one("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }",
               'bottom: "x" bottom: "rois"')  # fmt: skip
    with pytest.raises(InputError, match="belongs to sample 2, and the batch has 1"):
        Layer(text, feeds, fork="rcnn").run()


def test_upsample_fills_the_places_of_the_mask() -> None:
    """Of two values for one place the last one stays, and both get the gradient of the place."""
    mask = np.array([[0, 5], [5, 15]], np.float64).reshape(1, 1, 2, 2)
    feeds = {"x": np.array([1.0, 2, 3, 4]).reshape(1, 1, 2, 2), "m": mask}
    text = one("Upsample", "upsample_param { scale: 2 }", 'bottom: "x" bottom: "m"')
    layer = Layer(text, feeds, fork="segnet")
    expected = np.zeros(16)
    expected[[0, 5, 15]] = 1, 3, 4
    assert np.array_equal(layer.top().flatten(), expected)
    weights = np.arange(16.0).reshape(1, 1, 4, 4)
    assert layer.gradients(weights)["x"].flatten().tolist() == [0, 5, 5, 15]
    layer.feeds = {**feeds, "m": mask + 1}
    with pytest.raises(InputError, match="the mask names place 16, and a top of 4 x 4 has 16"):
        layer.run()


BN_TEXT = one("BN", "bn_param { slope_filler { value: 2 } bias_filler { value: 0.5 } FROZEN }")


def test_pspnets_bn_normalises_and_keeps_averages() -> None:
    layer = Layer(BN_TEXT.replace("FROZEN", "momentum: 0.75"), X, fork="pspnet")
    mean = X["x"].mean((0, 2, 3))
    variance = X["x"].var((0, 2, 3))
    norm = (X["x"] - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    assert layer.top() == pytest.approx(norm * 2 + 0.5)
    averages = [layer.net.params[i].value.detach().numpy().flatten() for i in (2, 3)]
    assert averages[0] == pytest.approx(0.25 * mean)
    assert averages[1] == pytest.approx(0.25 * variance)
    weights = numbers(*MAPS, seed=5)
    found = layer.gradients(weights)
    assert set(found) == {"x", "#0", "#1"}  # the averages have none
    for name, gradient in found.items():
        assert gradient == pytest.approx(layer.differences(name, weights), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_pspnets_bn_uses_the_averages_when_frozen_and_in_tests(phase: str) -> None:
    given = "frozen: true" if phase == "TRAIN" else ""
    layer = Layer(BN_TEXT.replace("FROZEN", given), X, fork="pspnet", phase=phase)
    layer.set(2, np.arange(6.0))
    layer.set(3, np.full(6, 4.0))
    centred = X["x"] - np.arange(6.0)[:, None, None]
    assert layer.top() == pytest.approx(centred / math.sqrt(4 + 1e-5) * 2 + 0.5, rel=1e-6)
    if phase == "TRAIN":
        found = layer.gradients()
        assert set(found) == {"x"}
        assert found["x"] == pytest.approx(np.full(MAPS, 2 / math.sqrt(4 + 1e-5)))


def test_segnets_bn_overwrites_its_gradients() -> None:
    """A second Backward leaves what it has itself; so the fork's own code does (measured)."""
    text = one("BN", "bn_param { scale_filler { value: 2 } shift_filler { value: 0.5 } }")
    layer = Layer(text, X, fork="segnet")
    centred = X["x"] - X["x"].mean((0, 2, 3))[:, None, None]
    norm = centred / np.sqrt(X["x"].var((0, 2, 3)) + 1e-9)[:, None, None]
    assert layer.top() == pytest.approx(norm * 2 + 0.5)
    weights = numbers(*MAPS, seed=5)
    found = layer.gradients(weights)
    for name, gradient in found.items():
        assert gradient == pytest.approx(layer.differences(name, weights), rel=1e-5, abs=1e-6)
    once = layer.net.params[0].value.grad
    assert once is not None
    expected = once.clone()
    loss = 'layer { name: "z" type: "EuclideanLoss" bottom: "top" bottom: "y" top: "z" }'
    whole = Layer(text + loss, {**X, "y": numbers(*MAPS, seed=6)}, fork="segnet")
    grads = []
    for _ in range(2):
        whole.net.backward(whole.run()[0])
        grads.append(whole.net.params[0].value.grad.clone())  # type: ignore[union-attr]
    assert torch.equal(grads[0], grads[1])
    assert expected.shape == grads[0].shape
    scaled = Layer(text.replace("bn_param {", "bn_param { bn_mode: INFERENCE"), X, fork="segnet")
    assert scaled.top() == pytest.approx(X["x"] * 2 + 0.5)


def test_segnets_loss_weighs_its_classes() -> None:
    labels = np.array([[0, 1, 2, 9], [2, 2, 0, 1]], np.float64).reshape(2, 1, 1, 4)
    feeds = {"x": numbers(2, 3, 1, 4), "y": labels}
    text = one("SoftmaxWithLoss", "loss_param { ignore_label: 9 weight_by_label_freqs: true "
               "class_weighting: 0.5 class_weighting: 2 class_weighting: 3 }",
               'bottom: "x" bottom: "y"')  # fmt: skip
    total = 0.0
    for n, w in np.ndindex(2, 4):
        label = int(labels[n, 0, 0, w])
        if label != 9:
            scores = np.exp(feeds["x"][n, :, 0, w])
            total -= (0.5, 2, 3)[label] * math.log(scores[label] / scores.sum())
    layer = Layer(text, feeds, fork="segnet")
    assert layer.top() == pytest.approx(total / 7)
    weight = np.array(1.0)
    expected = layer.differences("x", weight)
    assert layer.gradients(weight)["x"] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_segaccuracy_counts_pixels_classes_and_overlaps() -> None:
    """Classes 0 and 1: 2 of 3 and 1 of 1 right, overlaps 2/3 and 1/2; class 2 isn't there: 1."""
    scores = np.zeros((1, 3, 1, 5))
    for w, found in enumerate((0, 0, 1, 1, 2)):
        scores[0, found, 0, w] = 1
    labels = np.array([0, 0, 0, 1, 255], np.float64).reshape(1, 1, 1, 5)
    text = one("SegAccuracy", "propagate_down: false propagate_down: false "
               "seg_accuracy_param { ignore_label: 255 }", 'bottom: "x" bottom: "y"')  # fmt: skip
    layer = Layer(text, {"x": scores, "y": labels}, fork="pspnet", phase="TEST")
    expected = [3 / 4, (2 / 3 + 1) / 2, (2 / 3 + 1 / 2 + 1) / 3]
    assert layer.top().flatten() == pytest.approx(expected)


def test_segaccuracy_can_go_on_counting() -> None:
    text = one("SegAccuracy", "propagate_down: false propagate_down: false "
               "seg_accuracy_param { reset: false }", 'bottom: "x" bottom: "y"')  # fmt: skip
    scores = np.array([1.0, 0]).reshape(1, 2, 1, 1)
    feeds = {"x": scores, "y": np.zeros((1, 1, 1, 1))}
    layer = Layer(text, feeds, fork="pspnet", phase="TEST")
    assert layer.top().flatten()[0] == 1
    layer.feeds = {**feeds, "y": np.ones((1, 1, 1, 1))}
    assert layer.top().flatten()[0] == 0.5


def test_the_annotator_keeps_the_regions_with_the_largest_loss() -> None:
    feeds = {
        "r": np.array([[0, 0, 0, 1, 1]] * 3 + [[1, 0, 0, 1, 1]] * 2, np.float64),
        "l": np.array([3.0, 1, 2, 5, 4]).reshape(5, 1, 1, 1),
        "y": np.array([7.0, 8, 9, 10, 11]).reshape(5, 1, 1, 1),
        "w": np.ones((5, 4, 1, 1)),
    }
    text = ('layer { name: "l" type: "BoxAnnotatorOHEM" bottom: "r" bottom: "l" bottom: "y" '
            'bottom: "w" top: "top" top: "more" propagate_down: false propagate_down: false '
            "propagate_down: false propagate_down: false "
            "box_annotator_ohem_param { roi_per_img: 2 ignore_label: -1 } }")  # fmt: skip
    layer = Layer(text, feeds, fork="rcnn")
    assert layer.top().flatten().tolist() == [7, -1, 9, 10, 11]
    assert layer.top("more")[:, 0].flatten().tolist() == [1, 0, 1, 1, 1]


def test_the_losses_of_r_fcn_are_told_one_by_one() -> None:
    labels = np.array([0, 2, 1], np.float64).reshape(3, 1, 1, 1)
    feeds = {"x": numbers(3, 3, 1, 1), "y": labels}
    text = ('layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "top" '
            'top: "p" top: "each" loss_weight: 1 loss_weight: 0 loss_weight: 0 }')  # fmt: skip
    layer = Layer(text, feeds, fork="rcnn")
    scores = np.exp(feeds["x"][..., 0, 0])
    shares = scores / scores.sum(1, keepdims=True)
    each = [-math.log(shares[n, int(labels[n, 0, 0, 0])]) for n in range(3)]
    assert layer.top("each").flatten() == pytest.approx(each)
    assert layer.top("p")[..., 0, 0] == pytest.approx(shares)
    assert layer.top() == pytest.approx(sum(each) / 3)
    boxes = ('layer { name: "l" type: "SmoothL1LossOHEM" bottom: "x" bottom: "y" top: "top" '
             'top: "each" loss_weight: 1 loss_weight: 0 loss_param { normalization: PRE_FIXED '
             "pre_fixed_normalizer: 5 } }")  # fmt: skip
    layer = Layer(boxes, {"x": BOXES["x"], "y": BOXES["y"]}, fork="rcnn")
    losses = [[smooth(v) for v in row] for row in BOXES["x"] - BOXES["y"]]
    assert layer.top("each").flatten() == pytest.approx([sum(row) for row in losses])
    assert layer.top() == pytest.approx(sum(map(sum, losses)) / 5)


def test_priors_are_boxes_around_each_position() -> None:
    """prior_box_layer.cpp: a map of 1 x 2 over an image of 20 x 40; sizes 8 and sqrt(8 * 18)."""
    feeds = {"x": np.zeros((1, 3, 1, 2)), "i": np.zeros((1, 3, 20, 40))}
    text = one("PriorBox", "prior_box_param { min_size: 8 max_size: 18 aspect_ratio: 4 "
               "variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 }",
               'bottom: "x" bottom: "i"')  # fmt: skip
    top = Layer(text, feeds, fork="ssd").top()
    boxes = []
    for x in (10, 30):
        for width, height in ((8, 8), (12, 12), (16, 4), (4, 16)):
            boxes.append([(x - width / 2) / 40, (10 - height / 2) / 20,
                          (x + width / 2) / 40, (10 + height / 2) / 20])  # fmt: skip
    assert top[0, 0].reshape(-1, 4) == pytest.approx(np.array(boxes))
    assert top[0, 1].reshape(-1, 4) == pytest.approx(np.array([[0.1, 0.2, 0.3, 0.4]] * 8))
    clipped = text.replace("min_size: 8 max_size: 18", "min_size: 30 clip: true")
    top = Layer(clipped, feeds, fork="ssd").top()[0, 0]
    assert (top.min(), top.max()) == (0, 1)


#: Four priors; one object lies on the second one, a smaller one touches the third.
PRIORS = np.array([
    [0.0, 0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0, 0.5, 0.4, 0.9], [0.6, 0, 1, 0.4],
])  # fmt: skip
OBJECTS = np.array([[0, 1, 0, 0.5, 0.5, 0.9, 0.8, 0], [0, 2, 0, 0, 0.5, 0.1, 0.6, 0]], np.float64)
SSD = {
    "loc": numbers(2, 16), "conf": numbers(2, 12, seed=4),
    "priors": np.stack([PRIORS.flatten(), np.full(16, 0.1)])[None],
    "objects": OBJECTS[None, None],
}  # fmt: skip
MULTIBOX = one("MultiBoxLoss", "propagate_down: true propagate_down: true propagate_down: false "
               "propagate_down: false multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE "
               "neg_pos_ratio: 0.5 MORE }",
               'bottom: "loc" bottom: "conf" bottom: "priors" bottom: "objects"')  # fmt: skip


def ssd_loss(negatives: int) -> float:
    """Both objects have the prior that overlaps most with them; sample 1 has no object at all."""
    total = 0.0
    for prior, row in ((1, OBJECTS[0]), (2, OBJECTS[1])):
        x, y, right, bottom = row[3:7]
        a, b, c, d = PRIORS[prior]
        codes = [
            ((x + right) / 2 - (a + c) / 2) / (c - a) / 0.1,
            ((y + bottom) / 2 - (b + d) / 2) / (d - b) / 0.1,
            math.log((right - x) / (c - a)) / 0.1,
            math.log((bottom - y) / (d - b)) / 0.1,
        ]
        predicted = SSD["loc"][0].reshape(4, 4)[prior]
        total += sum(smooth(p - q) for p, q in zip(predicted, codes, strict=True))
    scores = np.exp(SSD["conf"][0].reshape(4, 3))
    losses = -np.log(scores / scores.sum(1, keepdims=True))
    total += losses[1, 1] + losses[2, 2]
    total += sum(sorted((losses[0, 0], losses[3, 0]), reverse=True)[:negatives])
    return float(total / 2)


def test_multiboxloss_matches_mines_and_encodes() -> None:
    """Half as many negatives as matches: the harder one of the two priors that are left."""
    layer = Layer(MULTIBOX.replace("MORE", ""), SSD, fork="ssd")
    assert layer.top() == pytest.approx(ssd_loss(1))
    weight = np.array(1.0)
    found = layer.gradients(weight)
    for name in ("loc", "conf"):
        expected = layer.differences(name, weight)
        assert found[name] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert np.count_nonzero(found[name][1]) == 0
    more = MULTIBOX.replace("MORE", "").replace("neg_pos_ratio: 0.5", "neg_pos_ratio: 3")
    assert Layer(more, SSD, fork="ssd").top() == pytest.approx(ssd_loss(2))


def test_multiboxloss_says_what_it_does_not_do() -> None:
    with pytest.raises(NetError, match="MultiBoxLoss with mining_type: HARD_EXAMPLE"):
        Layer(MULTIBOX.replace("MORE", "mining_type: HARD_EXAMPLE"), SSD, fork="ssd")


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_drawn_slopes_lie_between_their_bounds(phase: str) -> None:
    text = one("Insanity", "insanity_param { lb: 2 ub: 4 }")
    layer = Layer(text, X, fork="ssd", phase=phase)
    top = layer.top()
    below = X["x"] < 0
    assert np.array_equal(top[~below], X["x"][~below])
    divisors = (X["x"] / top)[below]
    if phase == "TEST":
        assert divisors == pytest.approx(np.full(divisors.shape, 2 / math.log(2)))
        return
    assert 2 <= divisors.min() < divisors.max() <= 4
    done, fed = layer.run()
    torch.autograd.backward(done.blobs["top"].sum())
    assert fed["x"].grad is not None
    slopes = done.blobs["top"].detach().numpy() / X["x"]
    assert fed["x"].grad.numpy() == pytest.approx(slopes)


@pytest.mark.parametrize(("phase", "kinds"), [("TRAIN", {0.0, 2.0}), ("TEST", {1.0})])
def test_spatial_dropout_drops_whole_channels(phase: str, kinds: set[float]) -> None:
    feeds = {"x": np.ones((8, 32, 3, 3))}
    top = Layer(one("SpatialDropout"), feeds, fork="ssd", phase=phase).top()
    assert set(np.unique(top)) == kinds
    assert all(len(np.unique(plane)) == 1 for plane in top.reshape(-1, 9))


def test_segnets_dropout_can_drop_in_tests() -> None:
    feeds = {"x": np.ones((8, 32, 3, 3))}
    text = one("Dropout", "dropout_param { sample_weights_test: true }")
    top = Layer(text, feeds, fork="segnet", phase="TEST").top()
    assert set(np.unique(top)) == {0.0, 2.0}
    plain = Layer(one("Dropout"), feeds, fork="segnet", phase="TEST").top()
    assert set(np.unique(plain)) == {1.0}


def test_what_is_another_layer_in_a_fork_is_refused() -> None:
    """NVCaffe's BatchNorm keeps other averages; caffe-windows' Normalize has other gradients."""
    message = parse_net('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 '
                        'dim: 3 dim: 4 dim: 5 } } } layer { name: "l" type: "BatchNorm" '
                        'bottom: "x" top: "top" }')  # fmt: skip
    for fork, said in (("nvcaffe", ["Input", "as in the fork nvcaffe"]), ("ssd", ["Input"])):
        state = net_state("TRAIN", message, caffe_pb2.NetState())
        file = NetFile(message, None, state, rules_with((), fork))
        found = [str(error) for error in refusals(file.build(file.layers(Sources(()))))]
        assert len(found) == len(said)
        assert all(word in text for word, text in zip(said, found, strict=True))


def test_layers_of_forks_in_place_are_no_departure() -> None:
    text = 'layer { name: "l" type: "ReLU6" bottom: "x" top: "x" }'
    layer = Layer(one("SeLu").replace('"top"', '"t"') + text.replace('"x"', '"t"'), X, fork="ssd")
    assert [each.layer for each in departures(layer.graph)] == []


def test_a_user_of_a_class_weighting_does_not_lose_it(tmp_path: Path) -> None:
    """Without a word about the fork, the fields of the net say whose SoftmaxWithLoss it is."""
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param { '
                    "shape { dim: 2 dim: 2 dim: 3 dim: 3 } shape { dim: 2 dim: 1 dim: 3 dim: 3 } } "
                    '} layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" '
                    'top: "z" loss_param { weight_by_label_freqs: true class_weighting: 1 '
                    "class_weighting: 2 } }")  # fmt: skip
    recipe = read_recipe(path)
    graph = recipe.train.build(recipe.train.layers(Sources(())))
    assert type(graph.nodes[-1].rule) in RUNNING


def test_a_net_of_a_fork_trains_and_its_fork_is_the_users(tmp_path: Path) -> None:
    """The worker reads BN as the plan says, whatever it would guess: 4 blobs, not 2."""
    blobs = {}
    for fork in ("pspnet", "segnet"):
        folder = tmp_path / fork
        folder.mkdir()
        (folder / "net.prototxt").write_text(
            'layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { '
            "dim: 2 dim: 3 dim: 4 dim: 4 } shape { dim: 2 dim: 3 dim: 8 dim: 8 } } } "
            'layer { name: "n" type: "BN" bottom: "x" top: "n" bn_param { } } '
            'layer { name: "u" type: "Interp" bottom: "n" top: "u" interp_param { height: 8 '
            'width: 8 } } layer { name: "z" type: "EuclideanLoss" bottom: "u" bottom: "y" '
            'top: "z" }'
        )
        solver = folder / "solver.prototxt"
        solver.write_text(
            'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 '
            'snapshot_prefix: "own" random_seed: 1'
        )
        assert train_here(solver, fork=fork) == 0
        trained = caffe_pb2.NetParameter.FromString((folder / "own_iter_2.caffemodel").read_bytes())
        blobs[fork] = [len(layer.blobs) for layer in trained.layer if layer.type == "BN"]
    assert blobs == {"pspnet": [4], "segnet": [2]}
