"""One-layer nets for every type: settings that change what is calculated.

Sizes are different primes where the type allows it. Inputs come in two kinds, for two passes: any
numbers, and multiples of a half, among which there are zeros and ties.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffe_batch.layers.base import Phase, Shape
from tests.engines.torch.on_caffe import Array, Trial

MAPS: Shape = (3, 5, 7, 6)
ROWS: Shape = (5, 7)
#: Caffe adds up the terms of a loss one by one, so that many of them cost precision.
SMALL: Shape = (3, 2, 5, 2)


@dataclass(frozen=True)
class LayerCase:
    """A layer and its bottoms.

    Attributes:
        type, settings: The layer, and the text of its messages.
        bottoms: The shapes.
        tops: How many tops it has.
        in_place: Whether its first top is its first bottom.
        kinds: What a bottom holds where that isn't any number: ``labels:N`` (below N),
            ``labels:N:I`` (with ignored labels I), ``ignored:I`` (nothing else), ``marks`` (0 or
            1), ``shares`` (from 0 to 1), ``above``, ``begin``.
        phase: The phase.
        silent: Tops that get no gradient.
    """

    type: str
    settings: str = ""
    bottoms: tuple[Shape, ...] = (MAPS,)
    tops: int = 1
    in_place: bool = False
    kinds: Mapping[int, str] = field(default_factory=dict)
    phase: Phase = "TRAIN"
    silent: tuple[str, ...] = ()

    @property
    def reads_indices(self) -> bool:
        """Whether it has a bottom that must not be asked for a gradient, forced or not."""
        return self.type in ("BatchReindex", "Embed", "Filter", "InfogainLoss")

    @property
    def name(self) -> str:
        words = [self.type, self.settings]
        words += ["x".join(map(str, shape)) for shape in self.bottoms]
        words += [f"{self.tops} tops"] * (self.tops > 1)
        words += ["in place"] * self.in_place + [self.phase] * (self.phase == "TEST")
        words += list(self.kinds.values())
        return " ".join(filter(None, words))

    def top_names(self) -> list[str]:
        names = [f"t{i}" for i in range(self.tops)]
        return ["b0", *names[1:]] if self.in_place else names

    def text(self) -> str:
        shapes = [f"shape {{ {' '.join(f'dim: {n}' for n in shape)} }}" for shape in self.bottoms]
        feed = [f'top: "b{i}"' for i in range(len(self.bottoms))]
        parts, bottoms = [], [f"b{i}" for i in range(len(self.bottoms))]
        if self.bottoms:
            parts.append(
                f'layer {{ name: "in" type: "Input" {" ".join(feed)} '
                f"input_param {{ {' '.join(shapes)} }} }}"
            )
        weights = ""
        if self.reads_indices:  # a bias for each number of bottom 0 gets that bottom's gradient
            if self.type != "Embed":
                parts.append(
                    'layer { name: "pre" type: "Bias" bottom: "b0" top: "p0" '
                    "bias_param { axis: 0 num_axes: -1 } }"
                )
                bottoms[0] = "p0"
            if "loss_weight" not in self.settings:
                weights = "loss_weight: 1 " * self.tops
        else:
            parts.insert(0, "force_backward: true")
        blobs = [f'bottom: "{name}"' for name in bottoms]
        blobs += [f'top: "{name}"' for name in self.top_names()]
        parts.append(
            f'layer {{ name: "l" type: "{self.type}" {" ".join(blobs)} {weights}{self.settings} }}'
        )
        return "\n".join([*parts, ""])

    def trial(self) -> Trial:
        draw = np.random.default_rng(zlib.crc32(self.name.encode()))
        trial = Trial(self.text(), phase=self.phase)
        shapes = dict(trial.net().blob_shapes)
        feeds = [
            {
                f"b{i}": self._numbers(i, shape, draw, ties=n == 1)
                for i, shape in enumerate(self.bottoms)
            }
            for n in range(2)
        ]
        diffs = [
            {
                name: draw.normal(size=shapes[name]).astype(np.float32)
                for name in self.top_names() if name not in self.silent
            }
            for n in range(2)
        ]  # fmt: skip
        weights = {
            f"{p.layer}/{p.index}": draw.normal(size=p.shape).astype(np.float32) * np.float32(0.5)
            for p in trial.net().params
        }
        if self.type == "BatchNorm":
            weights["l/1"], weights["l/2"] = np.abs(weights["l/1"]), np.array([1.7], np.float32)
        return Trial(trial.text, feeds, diffs, self.phase, weights)

    def _numbers(self, i: int, shape: Shape, draw: np.random.Generator, *, ties: bool) -> Array:
        kind, *limits = self.kinds.get(i, "any").split(":")
        if kind == "labels":
            values = draw.integers(int(limits[0]), size=shape).astype(np.float32)
            if limits[1:]:
                values[draw.random(shape) < 0.3] = int(limits[1])
            return values
        if kind == "ignored":
            return np.full(shape, int(limits[0]), np.float32)
        if kind == "marks":
            return (draw.random(shape) < 0.5).astype(np.float32)
        if kind == "begin":
            values = np.ones(shape, np.float32)
            values[0], values[-1, 0] = 0, 0
            return values
        if kind == "shares":
            return np.clip(draw.random(shape), 0.05, 1).astype(np.float32)
        drawn = draw.normal(size=shape)
        if ties:
            drawn = np.round(drawn * 2) / 2
        return (np.abs(drawn) + 0.25 if kind == "above" else drawn).astype(np.float32)


def _fill(what: str = "weight_filler") -> str:
    return f'{what} {{ type: "xavier" }}'


def _neurons() -> list[LayerCase]:
    cases = []
    for kind, settings in (
        ("ReLU", ""), ("ReLU", "relu_param { negative_slope: 0.3 }"),
        ("ReLU", "relu_param { negative_slope: -0.3 }"), ("Sigmoid", ""), ("TanH", ""),
        ("BNLL", ""),
        ("ELU", ""), ("ELU", "elu_param { alpha: 0.4 }"), ("ELU", "elu_param { alpha: -0.6 }"),
        ("Clip", "clip_param { min: -0.5 max: 0.75 }"), ("Exp", ""),
        ("Exp", "exp_param { base: 2 scale: -0.4 shift: 0.3 }"), ("Swish", ""),
        ("Swish", "swish_param { beta: 1.5 }"), ("Swish", "swish_param { beta: -0.5 }"),
        ("Power", ""), ("Power", "power_param { power: 2 scale: 0.5 shift: 0.3 }"),
        ("Power", "power_param { power: 2 }"), ("Power", "power_param { power: 3 scale: 0.4 }"),
        ("Power", "power_param { power: 3 scale: 0.4 shift: 0.7 }"),
        ("Power", "power_param { scale: -0.5 shift: 0.1 }"), ("Power", "power_param { power: 0 }"),
        ("Power", "power_param { scale: 0 shift: 0.7 power: 2 }"),
    ):  # fmt: skip
        cases += [LayerCase(kind, settings), LayerCase(kind, settings, in_place=True)]
    above = {0: "above"}
    for settings in ("", "log_param { base: 2 scale: 0.2 shift: 4 }"):
        cases.append(LayerCase("Log", settings, kinds=above))
        cases.append(LayerCase("Log", settings, kinds=above, in_place=True))
    for settings in (
        "power_param { power: -0.5 scale: 2 shift: 1 }", "power_param { power: 0.5 }",
    ):  # fmt: skip
        cases.append(LayerCase("Power", settings, kinds=above))
        cases.append(LayerCase("Power", settings, kinds=above, in_place=True))
    cases += [
        LayerCase("AbsVal"), LayerCase("Threshold", "threshold_param { threshold: 0.5 }",
                                       phase="TEST"),
        LayerCase("Dropout", phase="TEST"), LayerCase("Dropout", phase="TEST", in_place=True),
        LayerCase("PReLU"), LayerCase("PReLU", in_place=True), LayerCase("PReLU", bottoms=(ROWS,)),
        LayerCase("PReLU", "prelu_param { channel_shared: true }"),
        LayerCase("PReLU", bottoms=((3, 5, 4),)),
    ]  # fmt: skip
    return cases


def _windows() -> list[LayerCase]:
    cases = []
    for kind in ("Convolution", "Deconvolution"):

        def case(
            settings: str, *bottoms: Shape, tops: int = 1, in_place: bool = False, kind: str = kind
        ) -> LayerCase:  # fmt: skip
            text = f"convolution_param {{ {settings} {_fill()} }}"
            return LayerCase(kind, text, bottoms or (MAPS,), tops, in_place)

        cases += [
            case("num_output: 4 kernel_size: 3"),
            case("num_output: 4 kernel_size: 3 bias_term: false stride: 2 pad: 1"),
            case("num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 1"),
            case("num_output: 6 kernel_size: 2 group: 2 dilation: 2", (3, 4, 7, 6)),
            case("num_output: 4 kernel_size: 1"),
            case("num_output: 5 kernel_size: 3 axis: -2", (2, 3, 5, 7)),
            case("num_output: 5 kernel_size: 2 stride: 2 axis: 2", (2, 3, 5, 7, 4)),
            case("num_output: 3 kernel_size: 3 dilation: 2 pad: 1 group: 3", (3, 6, 11)),
            case("num_output: 6 kernel_size: 2 pad: 1", (2, 3, 4, 5, 3)),
            case("num_output: 4 kernel_size: 2 stride: 2 pad: 1 group: 2", (2, 4, 3, 3, 2, 4)),
            case("num_output: 4", (5, 7)),
            case("num_output: 4 kernel_size: 3 stride: 2", (3, 5, 2, 7)),
            case("num_output: 4 kernel_size: 3 force_nd_im2col: true"),
            case("num_output: 4 kernel_size: 3", MAPS, MAPS, tops=2),
        ]
    shape: Shape = (3, 5, 11, 8)
    for settings in (
        "kernel_size: 2 stride: 2", "kernel_size: 3 stride: 2", "kernel_size: 3 stride: 2 pad: 1",
        "kernel_size: 3 stride: 2 pad: 2", "kernel_size: 3 stride: 1 pad: 1",
        "kernel_h: 3 kernel_w: 2 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 0",
        "kernel_size: 3 stride: 2 round_mode: FLOOR", "global_pooling: true",
        "kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", "kernel_size: 2 stride: 3",
        "kernel_size: 4 stride: 3 pad: 3", "kernel_size: 5 stride: 4 pad: 2",
    ):  # fmt: skip
        for pool in ("MAX", "AVE"):
            cases.append(
                LayerCase("Pooling", f"pooling_param {{ pool: {pool} {settings} }}", (shape,))
            )
    cases += [
        LayerCase("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (shape,), 2,
                  silent=("t1",)),
        LayerCase("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 2 }", (shape,), 2,
                  silent=("t1",)),
    ]  # fmt: skip
    for pool in ("MAX", "AVE"):
        for height in (1, 2, 3):
            text = f"spp_param {{ pool: {pool} pyramid_height: {height} }}"
            cases.append(LayerCase("SPP", text, (shape,)))
    for settings in (
        "", "local_size: 3 alpha: 2 beta: 0.5 k: 1.5", "norm_region: WITHIN_CHANNEL local_size: 3",
        "norm_region: WITHIN_CHANNEL alpha: 3 beta: 0.6 k: 2 local_size: 5",
    ):  # fmt: skip
        text = f"lrn_param {{ {settings} }}"
        cases += [LayerCase("LRN", text), LayerCase("LRN", text, in_place=True)]
    for settings, shape in (
        ("kernel_size: 3 stride: 2 pad: 1", MAPS), ("kernel_h: 2 kernel_w: 3 dilation: 2", MAPS),
        ("kernel_size: 2 axis: 2", (2, 3, 5, 7, 4)), ("kernel_size: 3 pad: 1", (3, 5, 7)),
        ("kernel_size: 3 stride: 2", (3, 5, 2, 7)),
    ):  # fmt: skip
        cases.append(LayerCase("Im2col", f"convolution_param {{ {settings} }}", (shape,)))
    return cases


def _dense() -> list[LayerCase]:
    cases = []
    for settings, shape in (
        ("", MAPS), ("bias_term: false", ROWS), ("axis: 2", MAPS), ("axis: -1", MAPS),
        ("axis: 0", MAPS), ("transpose: true", MAPS), ("transpose: true axis: 2", MAPS),
    ):  # fmt: skip
        text = f"inner_product_param {{ num_output: 4 {_fill()} {settings} }}"
        cases.append(LayerCase("InnerProduct", text, (shape,)))
    for settings in ("", "bias_term: false"):
        text = f"embed_param {{ num_output: 4 input_dim: 7 {_fill()} {settings} }}"
        cases.append(LayerCase("Embed", text, ((5, 3),), kinds={0: "labels:7"}))
    for settings, more in (
        ("", ()), ("axis: 2", ()), ("axis: -2 num_axes: 2", ()), ("axis: 0 num_axes: -1", ()),
        ("axis: 1 num_axes: 0", ()), ("axis: 1", ((5, 7),)), ("axis: 0", ((3,),)),
        ("axis: 0", (MAPS,)),
    ):  # fmt: skip
        uniform = 'filler { type: "uniform" }'
        for in_place in (False, True):
            text = f"scale_param {{ {settings} {uniform} }}"
            cases.append(LayerCase("Scale", text, (MAPS, *more), in_place=in_place))
            text = f"scale_param {{ {settings} {uniform} bias_term: true }}"
            cases.append(LayerCase("Scale", text, (MAPS, *more), in_place=in_place))
            text = f"bias_param {{ {settings} }}"
            cases.append(LayerCase("Bias", text, (MAPS, *more), in_place=in_place))
    cases += [
        LayerCase("Scale", "scale_param { bias_term: true }", ((1, 5, 7, 6),)),
        LayerCase("Scale", "scale_param { bias_term: true }", ((1, 5, 7, 6),), in_place=True),
        LayerCase("Scale", "scale_param { axis: 0 }", (MAPS,)),
        LayerCase("Parameter", "parameter_param { shape { dim: 3 dim: 2 } }", ()),
    ]
    for settings in ("", "use_global_stats: true", "moving_average_fraction: 0.7 eps: 0.1"):
        text = f"batch_norm_param {{ {settings} }}"
        for shape in (MAPS, (5, 7), (5, 3, 4)):
            cases.append(LayerCase("BatchNorm", text, (shape,)))
        cases.append(LayerCase("BatchNorm", text, in_place=True))
        cases.append(LayerCase("BatchNorm", text, phase="TEST"))
    cases.append(LayerCase("BatchNorm", "batch_norm_param { use_global_stats: false }",
                           phase="TEST"))  # fmt: skip
    for settings in (
        "", "across_channels: true", "normalize_variance: false", "eps: 0.1",
        "across_channels: true normalize_variance: false",
    ):  # fmt: skip
        text = f"mvn_param {{ {settings} }}"
        cases += [LayerCase("MVN", text), LayerCase("MVN", text, in_place=True)]
    cases.append(LayerCase("MVN", "", ((5, 7, 4),)))
    cases.append(LayerCase("MVN", "mvn_param { across_channels: true }", ((5, 7),)))
    return cases


def _shapes() -> list[LayerCase]:
    cases = [
        LayerCase("Concat", "", (MAPS, (3, 2, 7, 6))),
        LayerCase("Concat", "concat_param { axis: -1 }", (MAPS, (3, 5, 7, 2), MAPS)),
        LayerCase("Concat", "concat_param { concat_dim: 0 }", (MAPS, MAPS)),
        LayerCase("Concat"),
        LayerCase("Slice", "slice_param { axis: -1 }", tops=3),
        LayerCase("Slice", "slice_param { slice_point: 1 slice_point: 3 }", tops=3),
        LayerCase("Slice", "slice_param { slice_dim: 0 }", tops=3),
        LayerCase("Slice"),
        LayerCase("Crop", "crop_param { axis: 2 offset: 1 }", (MAPS, (3, 5, 4, 3))),
        LayerCase("Crop", "crop_param { axis: -1 offset: 2 }", (MAPS, (2, 2, 2, 3))),
        LayerCase("Crop", "crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }",
                  (MAPS, (3, 4, 4, 3))),
        LayerCase("Flatten"), LayerCase("Flatten", "flatten_param { axis: -2 }"),
        LayerCase("Flatten", "flatten_param { axis: 0 end_axis: 1 }"),
        LayerCase("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"),
        LayerCase("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: 7 dim: 5 } }"),
        LayerCase("Reshape", "reshape_param { axis: -1 shape { dim: 1 } }"),
        LayerCase("Split", tops=3), LayerCase("Silence", tops=0),
        LayerCase("Tile", "tile_param { tiles: 3 }"), LayerCase("Tile", "tile_param { tiles: 1 }"),
        LayerCase("Tile", "tile_param { axis: -1 tiles: 2 }"),
        LayerCase("BatchReindex", "", (MAPS, (4,)), kinds={1: "labels:3"}),
        LayerCase("Filter", "", (MAPS, (3, 2), (3,)), 2, kinds={2: "marks"},
                  silent=("t0", "t1")),
        LayerCase("Softmax"), LayerCase("Softmax", in_place=True),
        LayerCase("Softmax", "softmax_param { axis: -1 }"),
        LayerCase("Softmax", "softmax_param { axis: 0 }"),
        LayerCase("ArgMax", phase="TEST"),
        LayerCase("ArgMax", "argmax_param { top_k: 4 out_max_val: true }", phase="TEST"),
        LayerCase("ArgMax", "argmax_param { top_k: 3 axis: -2 }", phase="TEST"),
        LayerCase("ArgMax", "argmax_param { top_k: 3 axis: 1 out_max_val: true }", phase="TEST"),
        LayerCase("ArgMax", "argmax_param { top_k: 2 }", (ROWS,), phase="TEST"),
    ]  # fmt: skip
    for operation in ("SUM", "ASUM", "SUMSQ", "MEAN"):
        for settings in ("", "axis: 1 coeff: 0.3", "axis: -1", "coeff: -2"):
            text = f"reduction_param {{ operation: {operation} {settings} }}"
            cases.append(LayerCase("Reduction", text, kinds={0: "above"}))
            cases.append(LayerCase("Reduction", text, (ROWS,), kinds={0: "any"}))
    for settings in (
        "", "coeff: 0.5 coeff: -1 coeff: 2", "operation: PROD", "operation: MAX",
        "operation: PROD stable_prod_grad: false",
    ):  # fmt: skip
        text = f"eltwise_param {{ {settings} }}"
        for in_place in (False, True):
            cases.append(LayerCase("Eltwise", text, (MAPS, MAPS, MAPS), in_place=in_place))
        if "coeff:" not in settings:
            cases.append(LayerCase("Eltwise", text, (ROWS, ROWS)))
            cases.append(LayerCase("Eltwise", text, (ROWS, ROWS), in_place=True))
    return cases


def _losses() -> list[LayerCase]:
    cases = []
    normalizations = (
        "", "normalize: false", "normalize: true", "normalization: FULL", "normalization: VALID",
        "normalization: BATCH_SIZE", "normalization: NONE",
    )  # fmt: skip
    ignored = ("labels:7", "labels:7:2", "ignored:2", "labels:7:-1", "ignored:-1")
    for settings in normalizations:
        for kind in ignored:
            label = kind.rpartition(":")[2]
            more = f"ignore_label: {label}" if kind != "labels:7" else ""
            text = f"loss_param {{ {settings} {more} }}"
            cases.append(LayerCase("SoftmaxWithLoss", text, (ROWS, (5,)), kinds={1: kind}))
            cases.append(
                LayerCase("SoftmaxWithLoss", text, ((3, 7, 5, 2), (3, 1, 5, 2)), kinds={1: kind})
            )
            if "normalize:" not in settings:
                cases.append(LayerCase("InfogainLoss", text, (ROWS, (5,), (7, 7)), kinds={1: kind}))
            targets = {"ignored:2": "ignored:1"}.get(kind, "marks")
            more = "ignore_label: 1" if kind.startswith(("ignored:2", "labels:7:2")) else ""
            text = f"loss_param {{ {settings} {more} }}"
            cases.append(
                LayerCase("SigmoidCrossEntropyLoss", text, (SMALL, SMALL), kinds={1: targets})
            )
    cases += [
        LayerCase("SoftmaxWithLoss", "softmax_param { axis: 2 } loss_param { normalize: false }",
                  ((4, 5, 7), (4, 5)), kinds={1: "labels:7"}),
        LayerCase("SoftmaxWithLoss", "softmax_param { axis: -1 }", ((4, 5, 7), (4, 5)),
                  kinds={1: "labels:7"}),
        LayerCase("SigmoidCrossEntropyLoss", "", (ROWS, ROWS), kinds={1: "shares"}),
        LayerCase("InfogainLoss", "infogain_loss_param { axis: -2 }",
                  ((3, 5, 2), (3, 2), (5, 5)), kinds={1: "labels:5"}),
        LayerCase("InfogainLoss", "loss_weight: 1 loss_weight: 0", (ROWS, (5,), (7, 7)), 2,
                  kinds={1: "labels:7"}, silent=("t1",)),
        LayerCase("EuclideanLoss", "", (MAPS, MAPS)),
        LayerCase("EuclideanLoss", "", (ROWS, (5, 7, 1))),
        LayerCase("HingeLoss", "", (ROWS, (5,)), kinds={1: "labels:7"}),
        LayerCase("HingeLoss", "hinge_loss_param { norm: L2 }", (ROWS, (5,)),
                  kinds={1: "labels:7"}),
        LayerCase("HingeLoss", "", (MAPS, (3,)), kinds={1: "labels:200"}),
        LayerCase("MultinomialLogisticLoss", "", (ROWS, (5,)),
                  kinds={0: "shares", 1: "labels:7"}),
        LayerCase("ContrastiveLoss", "", (ROWS, ROWS, (5,)), kinds={2: "marks"}),
        LayerCase("ContrastiveLoss", "contrastive_loss_param { margin: 4 }",
                  ((11, 3), (11, 3), (11,)), kinds={2: "marks"}),
        LayerCase("ContrastiveLoss", "contrastive_loss_param { margin: 4 legacy_version: true }",
                  ((11, 3), (11, 3), (11,)), kinds={2: "marks"}),
    ]  # fmt: skip
    for settings, shapes, kind in (
        ("", (ROWS, (5,)), "labels:7"), ("top_k: 3", (ROWS, (5,)), "labels:7"),
        ("ignore_label: 2", (ROWS, (5,)), "labels:7:2"),
        ("ignore_label: 2", (ROWS, (5,)), "ignored:2"),
        ("axis: -2", ((3, 7, 5), (3, 5)), "labels:7"),
        ("ignore_label: -1 top_k: 2", ((3, 7, 5, 2), (3, 1, 5, 2)), "labels:7:-1"),
    ):  # fmt: skip
        for tops in (1, 2):
            text = f"accuracy_param {{ {settings} }}"
            cases.append(LayerCase("Accuracy", text, shapes, tops, kinds={1: kind}, phase="TEST"))
    return cases


def _recurrent() -> list[LayerCase]:
    cases = []
    steps, streams, size = 3, 5, 4
    x, cont, state = (steps, streams, 2, 3), (steps, streams), (1, streams, size)
    begin = {1: "begin"}
    for kind, hidden in (("LSTM", 2), ("RNN", 1)):
        text = f"recurrent_param {{ num_output: {size} {_fill()} }}"
        exposed = f"recurrent_param {{ num_output: {size} {_fill()} expose_hidden: true }}"
        states, silent = (state,) * hidden, tuple(f"t{i + 1}" for i in range(hidden))
        cases += [
            LayerCase(kind, text, (x, cont), kinds=begin),
            LayerCase(kind, text, (x, cont), kinds={1: "marks"}),
            LayerCase(kind, text, (x, cont, (streams, 7)), kinds=begin),
            LayerCase(kind, text, (x, cont), kinds={1: "marks"}, phase="TEST"),
            LayerCase(kind, exposed, (x, cont, *states), 1 + hidden, kinds={1: "marks"},
                      silent=silent),
            LayerCase(kind, exposed, (x, cont, (streams, 7), *states), 1 + hidden,
                      kinds={1: "marks"}, silent=silent),
        ]  # fmt: skip
    cases.append(
        LayerCase(
            "LSTMUnit", "", (state, (1, streams, 4 * size), (1, streams)), 2, kinds={2: "marks"}
        )
    )
    return cases


CASES: Sequence[LayerCase] = list(
    {
        case.name: case
        for case in (*_neurons(), *_windows(), *_dense(), *_shapes(), *_losses(), *_recurrent())
    }.values()
)
