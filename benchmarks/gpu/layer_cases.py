"""The layers that are run on the GPU and on the CPU, one net each; and why others are not.

Sizes are pairwise different primes where the layer allows it, and large enough for several blocks
of threads. Numbers are continuous where a tie or a kink would allow two correct answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from caffe_batch.layers.base import Shape
from tests.layers.caffe_judge import layer_text


@dataclass(frozen=True)
class Bottom:
    """The content of one bottom.

    Attributes:
        shape: Its shape.
        kind: The kind of numbers in it (layers_worker.draw).
        below: Upper limit, exclusive, for the kind ``index``.
        gradient: Whether it gets a gradient.
    """

    shape: Shape
    kind: str = "normal"
    below: int = 0
    gradient: bool = True

    def layer(self, name: str) -> str:
        """Text of the layer that makes it; a parameter is a blob that gets a gradient."""
        kind, field = ("Parameter", "parameter") if self.gradient else ("Input", "input")
        dims = " ".join(f"dim: {size}" for size in self.shape)
        shape = f"{field}_param {{ shape {{ {dims} }} }}"
        return f'layer {{ name: "{name}" type: "{kind}" top: "{name}" {shape} }}'

    def json(self) -> dict[str, Any]:
        """Its description for the worker, which draws the numbers."""
        return {"shape": self.shape, "kind": self.kind, "below": self.below}


@dataclass(frozen=True)
class LayerCase:
    """One layer with its settings and its inputs.

    Attributes:
        type: Caffe's name of the layer type.
        settings: Text of its fields.
        bottoms: What it reads.
        tops: The number of its tops.
        phase: TRAIN or TEST.
        params: The kind of numbers in its parameters.
        backward: Whether it has a gradient.
    """

    type: str
    settings: str = ""
    bottoms: tuple[Bottom, ...] = ()
    tops: int = 1
    phase: str = "TRAIN"
    params: str = "normal"
    backward: bool = True

    @property
    def name(self) -> str:
        """Type, phase and settings, to be shown to people."""
        shapes = " ".join("x".join(map(str, bottom.shape)) for bottom in self.bottoms)
        return " ".join(filter(None, (self.type, self.phase, shapes, self.settings)))

    @property
    def net(self) -> str:
        """Text of the net; its outputs count as losses, or Caffe would skip the gradient."""
        weights = "loss_weight: 1 " * self.tops if self.backward else ""
        settings = weights + self.settings
        text = layer_text(self.type, settings, bottoms=len(self.bottoms), tops=self.tops)
        inputs = [bottom.layer(f"b{number}") for number, bottom in enumerate(self.bottoms)]
        forced = [] if self.tops else ["force_backward: true"]
        return "\n".join([*forced, *inputs, text, ""])

    def json(self) -> dict[str, Any]:
        """The case as the worker reads it."""
        return {
            "name": self.name,
            "net": self.net,
            "phase": self.phase,
            "bottoms": [bottom.json() for bottom in self.bottoms],
            "params": self.params,
            "backward": self.backward,
        }


#: Layer types without a case, and the reason.
NOT_COMPARED = {
    "Data": "reads a database; no arithmetic on the GPU. The parts demo and memory run it there.",
    "HDF5Data": "reads files; no arithmetic on the GPU",
    "HDF5Output": "writes files; no arithmetic on the GPU",
    "ImageData": "reads files; no arithmetic on the GPU",
    "Input": "holds what it is given; it feeds the labels of the cases here",
    "MemoryData": "hands on memory of the host; no arithmetic on the GPU",
    "Python": "runs what its author wrote, on the host",
    "WindowData": "reads files; no arithmetic on the GPU",
}

#: What the cases of a type don't cover.
LEFT_OUT = {
    "Dropout": "TRAIN: its mask is random, and other numbers come from the GPU's generator",
    "DummyData": "random fillers",
    "Pooling": "STOCHASTIC: not implemented on the CPU",
}


def marks(shape: Shape, below: int) -> Bottom:
    """Non-negative integers below a limit: labels, indices."""
    return Bottom(shape, "index", below, gradient=False)


IMAGE = Bottom((5, 6, 13, 17))
ROWS = Bottom((37, 19))


def cases() -> Iterator[LayerCase]:
    """All cases, by layer type."""
    yield from _elementwise()
    yield from _normalising()
    yield from _windows()
    yield from _rearranging()
    yield from _combining()
    yield from _recurrent()
    yield from _losses()


def _elementwise() -> Iterator[LayerCase]:
    for kind, settings in (
        ("AbsVal", ""),
        ("BNLL", ""),
        ("Clip", "clip_param { min: -0.7 max: 0.6 }"),
        ("ELU", "elu_param { alpha: 0.7 }"),
        ("Exp", ""),
        ("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.25 }"),
        ("Power", "power_param { power: 2 scale: 0.5 shift: 0.25 }"),
        ("PReLU", ""),
        ("PReLU", "prelu_param { channel_shared: true }"),
        ("ReLU", ""),
        ("ReLU", "relu_param { negative_slope: 0.3 }"),
        ("Sigmoid", ""),
        ("Swish", "swish_param { beta: 1.5 }"),
        ("TanH", ""),
    ):
        yield LayerCase(kind, settings, (IMAGE,))
    positive = (Bottom(IMAGE.shape, "positive"),)
    yield LayerCase("Log", "", positive)
    yield LayerCase("Log", "log_param { base: 2 scale: 0.5 shift: 0.25 }", positive)
    yield LayerCase("Power", "power_param { power: -1.5 }", positive)
    yield LayerCase("Threshold", "threshold_param { threshold: 0.2 }", (IMAGE,), backward=False)
    yield LayerCase("Dropout", "", (IMAGE,), phase="TEST")
    filler = 'data_filler { type: "constant" value: 0.75 }'
    shape = "shape { dim: 5 dim: 7 }"
    yield LayerCase("DummyData", f"dummy_data_param {{ {shape} {filler} }}", backward=False)
    yield LayerCase("Parameter", f"parameter_param {{ {shape} }}")


def _normalising() -> Iterator[LayerCase]:
    for settings, bottom in (
        ("", IMAGE),
        ("batch_norm_param { moving_average_fraction: 0.9 eps: 0.01 }", ROWS),
    ):
        yield LayerCase("BatchNorm", settings, (bottom,), params="positive")
    yield LayerCase("BatchNorm", "", (IMAGE,), phase="TEST", params="positive")
    yield LayerCase("LRN", "lrn_param { local_size: 3 alpha: 0.7 beta: 0.6 k: 2 }", (IMAGE,))
    yield LayerCase(
        "LRN", "lrn_param { local_size: 3 alpha: 0.7 norm_region: WITHIN_CHANNEL }", (IMAGE,)
    )
    yield LayerCase("MVN", "", (IMAGE,))
    yield LayerCase("MVN", "mvn_param { across_channels: true }", (IMAGE,))
    yield LayerCase("MVN", "mvn_param { normalize_variance: false }", (IMAGE,))
    yield LayerCase("Softmax", "", (IMAGE,))
    yield LayerCase("Softmax", "softmax_param { axis: -1 }", (IMAGE,))


def _windows() -> Iterator[LayerCase]:
    volume, signal = Bottom((2, 3, 7, 11, 13)), Bottom((5, 3, 29))
    for settings, bottom in (
        ("kernel_size: 3", IMAGE),
        ("kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2", IMAGE),
        ("kernel_size: 3 dilation: 2", IMAGE),
        ("kernel_size: 3 stride: 2", volume),
        ("kernel_size: 3 pad: 1", signal),
    ):
        for kind in ("Convolution", "Deconvolution"):
            yield LayerCase(kind, f"convolution_param {{ num_output: 7 {settings} }}", (bottom,))
        yield LayerCase("Im2col", f"convolution_param {{ {settings} }}", (bottom,))
    for kind in ("Convolution", "Deconvolution"):
        for settings in ("num_output: 4 kernel_size: 3 group: 2", "num_output: 7 kernel_size: 1"):
            yield LayerCase(kind, f"convolution_param {{ {settings} bias_term: false }}", (IMAGE,))
    for settings in (
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 3 stride: 2 round_mode: FLOOR",
        "pool: AVE kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2",
        "pool: AVE global_pooling: true",
    ):
        yield LayerCase("Pooling", f"pooling_param {{ {settings} }}", (IMAGE,))
    for pool in ("MAX", "AVE"):
        yield LayerCase("SPP", f"spp_param {{ pyramid_height: 3 pool: {pool} }}", (IMAGE,))


def _rearranging() -> Iterator[LayerCase]:
    yield LayerCase("ArgMax", "argmax_param { axis: 1 top_k: 2 }", (IMAGE,), backward=False)
    yield LayerCase("ArgMax", "argmax_param { out_max_val: true }", (IMAGE,), backward=False)
    yield LayerCase("BatchReindex", "", (IMAGE, marks((11,), 5)))
    yield LayerCase("Crop", "crop_param { offset: 1 offset: 3 }", (IMAGE, Bottom((5, 6, 7, 11))))
    yield LayerCase("Filter", "", (IMAGE, Bottom((5, 19)), marks((5,), 2)), tops=2)
    yield LayerCase("Flatten", "", (IMAGE,))
    yield LayerCase("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 13 } }", (IMAGE,))
    yield LayerCase("Silence", "", (IMAGE, ROWS), tops=0)
    yield LayerCase("Slice", "slice_param { slice_point: 1 slice_point: 4 }", (IMAGE,), tops=3)
    yield LayerCase("Slice", "slice_param { axis: -1 slice_point: 6 }", (IMAGE,), tops=2)
    yield LayerCase("Split", "", (IMAGE,), tops=3)
    yield LayerCase("Tile", "tile_param { tiles: 3 }", (IMAGE,))
    yield LayerCase("Tile", "tile_param { tiles: 3 axis: -1 }", (IMAGE,))


def _combining() -> Iterator[LayerCase]:
    channels = Bottom((6,))
    yield LayerCase("Bias", "", (IMAGE,))
    yield LayerCase("Bias", "", (IMAGE, channels))
    yield LayerCase("Bias", "bias_param { axis: 2 num_axes: -1 }", (IMAGE,))
    yield LayerCase("Concat", "", (IMAGE, Bottom((5, 11, 13, 17)), Bottom((5, 1, 13, 17))))
    yield LayerCase("Concat", "concat_param { axis: -1 }", (IMAGE, Bottom((5, 6, 13, 3))))
    for settings in (
        "",
        "eltwise_param { coeff: 0.5 coeff: -2 coeff: 1 }",
        "eltwise_param { operation: MAX }",
        "eltwise_param { operation: PROD }",
        "eltwise_param { operation: PROD stable_prod_grad: false }",
    ):
        yield LayerCase("Eltwise", settings, (IMAGE,) * 3)
    words = (marks((37, 3), 13),)
    yield LayerCase("Embed", "embed_param { num_output: 11 input_dim: 13 }", words)
    for settings in ("", "bias_term: false", "transpose: true", "axis: 2"):
        yield LayerCase(
            "InnerProduct", f"inner_product_param {{ num_output: 11 {settings} }}", (IMAGE,)
        )
    for operation in ("SUM", "ASUM", "SUMSQ", "MEAN"):
        settings = f"reduction_param {{ operation: {operation} axis: 2 coeff: 0.7 }}"
        yield LayerCase("Reduction", settings, (IMAGE,))
    yield LayerCase("Scale", "scale_param { bias_term: true }", (IMAGE,))
    yield LayerCase("Scale", "", (IMAGE, channels))
    yield LayerCase("Scale", "scale_param { axis: 0 num_axes: 2 }", (IMAGE,))
    yield LayerCase("Scale", "scale_param { axis: 2 num_axes: -1 }", (IMAGE,))


def _recurrent() -> Iterator[LayerCase]:
    x, begin, static = Bottom((5, 3, 7)), Bottom((5, 3), "begin", gradient=False), Bottom((3, 13))
    state = Bottom((1, 3, 11))
    size = "recurrent_param { num_output: 11 }"
    exposed = "recurrent_param { num_output: 11 expose_hidden: true }"
    for kind, states in (("LSTM", 2), ("RNN", 1)):
        yield LayerCase(kind, size, (x, begin))
        yield LayerCase(kind, size, (x, begin, static))
        yield LayerCase(kind, exposed, (x, begin, *(state,) * states), tops=1 + states)
    unit = (Bottom((1, 5, 211)), Bottom((1, 5, 844)), marks((1, 5), 2))
    yield LayerCase("LSTMUnit", "", unit, tops=2)


def _losses() -> Iterator[LayerCase]:
    labels, row_labels = marks((5, 13, 17), 6), marks((37,), 19)
    other, likely = Bottom(ROWS.shape), Bottom(ROWS.shape, "distribution")
    yield LayerCase("Accuracy", "", (IMAGE, labels), phase="TEST", tops=2, backward=False)
    top = "accuracy_param { top_k: 3 ignore_label: 1 }"
    yield LayerCase("Accuracy", top, (ROWS, row_labels), phase="TEST", backward=False)
    pair = (ROWS, other, marks((37,), 2))
    for settings in ("margin: 7", "margin: 7 legacy_version: true"):
        yield LayerCase("ContrastiveLoss", f"contrastive_loss_param {{ {settings} }}", pair)
    yield LayerCase("EuclideanLoss", "", (ROWS, other))
    for norm in ("L1", "L2"):
        settings = f"hinge_loss_param {{ norm: {norm} }}"
        yield LayerCase("HingeLoss", settings, (ROWS, row_labels))
    yield LayerCase("InfogainLoss", "", (IMAGE, labels, Bottom((6, 6), "positive", gradient=False)))
    yield LayerCase("MultinomialLogisticLoss", "", (likely, row_labels))
    for settings in ("", "loss_param { ignore_label: 2 }", "loss_param { normalization: NONE }"):
        yield LayerCase("SoftmaxWithLoss", settings, (IMAGE, labels))
    truth = marks(ROWS.shape, 2)
    for settings in ("", "loss_param { ignore_label: 0 normalization: VALID }"):
        yield LayerCase("SigmoidCrossEntropyLoss", settings, (ROWS, truth))
