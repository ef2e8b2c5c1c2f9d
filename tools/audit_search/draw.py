"""Random nets over all layer types and solvers: a seed makes a training.

A net grows layer by layer. Each type's own function picks blobs that the type can take, makes new
inputs where there are none, and writes settings; the layer's rule says which shapes leave it, and
where it refuses, another try is made. What any layer can have (in place, loss weights, shared or
frozen parameters, propagate_down, ...) is added on top.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from google.protobuf import text_format

from caffe_batch.errors import NetError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape, Site
from caffe_batch.net.convert import convert
from caffe_batch.schema import caffe_pb2
from tools.audit_search.nets import FILE_BATCH, Case, DrawnLayer, Spec
from tools.audit_search.sources import CLASSES, SHAPE

N = FILE_BATCH
FILLERS = ('"xavier"', '"gaussian" std: 0.4', '"uniform" min: -0.7 max: 0.8', '"msra"')
SOLVERS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@dataclass
class Blob:
    """What is known of a blob while the net grows.

    Attributes:
        shape: With the batch of the file.
        learned: Whether a parameter has a part in it.
        readers: How many layers read its newest version.
        dead: Whether its samples are mixed, so that little should follow.
        classes: For labels of a source: how many; 0 else.
    """

    shape: Shape
    learned: bool = False
    readers: int = 0
    dead: bool = False
    classes: int = 0


class Grower:
    """A net that grows."""

    def __init__(self, seed: int, folder: str) -> None:
        self.draw = random.Random(seed)  # noqa: S311  # the same nets from the same seed
        self.folder = folder
        self.sources: list[DrawnLayer] = []
        self.layers: list[DrawnLayer] = []
        self.blobs: dict[str, Blob] = {}
        self.number = 0
        self.cont: str | None = None
        self.batched = False
        self.steps = self.draw.choice((1, 2, 3))

    # Chances

    def often(self, share: float) -> bool:
        return self.draw.random() < share

    def name(self, letter: str) -> str:
        self.number += 1
        return f"{letter}{self.number}"

    def filler(self, field: str = "weight_filler") -> str:
        return f"{field} {{ type: {self.draw.choice(FILLERS)} }}"

    def small_filler(self, field: str) -> str:
        return f'{field} {{ type: "uniform" min: -0.4 max: 0.9 }}'

    # Blobs

    def fresh(self, shape: Shape) -> str:
        """A new input."""
        top, name = self.name("d"), self.name("in")
        dims = " ".join(f"dim: {size}" for size in shape)
        if self.batched and shape[:1] == (N,):
            return self.more_records(shape)[0]
        if self.often(0.06) or self.batched:
            fill = self.draw.choice(
                ("value: 0.7", 'type: "gaussian"', 'type: "uniform" min: 0.1 max: 1')
            )
            settings = f"dummy_data_param {{ shape {{ {dims} }} data_filler {{ {fill} }} }}"
            self.sources.append(DrawnLayer(name, "DummyData", tops=(top,), settings=settings))
        else:
            settings = f"input_param {{ shape {{ {dims} }} }}"
            self.sources.append(DrawnLayer(name, "Input", tops=(top,), settings=settings))
        self.blobs[top] = Blob(shape)
        return top

    def integers(self, shape: Shape) -> str:
        """A new input that is made up as its reader wants it."""
        if self.batched:
            return self.more_labels(shape)
        top, dims = self.name("d"), " ".join(f"dim: {size}" for size in shape)
        settings = f"input_param {{ shape {{ {dims} }} }}"
        self.sources.append(DrawnLayer(self.name("in"), "Input", tops=(top,), settings=settings))
        self.blobs[top] = Blob(shape, classes=-1)
        return top

    def more_records(self, shape: Shape) -> tuple[str, str]:
        """A source beside one with a batch_size: its top in a shape, and its labels."""
        top, labels, name = self.name("d"), self.name("d"), self.name("in")
        channels, height, width = (*shape[1:], 1, 1, 1)[:3] if len(shape) < 5 else (1, 1, 1)
        settings = (
            f"memory_data_param {{ batch_size: {N} channels: {channels} height: {height} "
            f"width: {width} }}"
        )
        self.sources.append(DrawnLayer(name, "MemoryData", tops=(top, labels), settings=settings))
        self.blobs[top] = Blob((N, channels, height, width))
        self.blobs[labels] = Blob((N,), classes=-1)
        return (top if len(shape) == 4 else self.shaped(top, shape)), labels

    def more_labels(self, shape: Shape) -> str:
        if shape == (N,):
            return self.more_records((N, 2, 1, 1))[1]
        name = self.more_records(shape)[0]
        self.blobs[name].classes = -1
        return name

    def shaped(self, bottom: str, shape: Shape) -> str:
        """The same numbers in another shape, the batch first."""
        top, dims = self.name("t"), " ".join(f"dim: {size}" for size in (0, *shape[1:]))
        settings = f"reshape_param {{ shape {{ {dims} }} }}"
        self.append(DrawnLayer(self.name("l"), "Reshape", (bottom,), (top,), settings), plain=True)
        return top

    def labels(self, classes: int, shape: Shape = (N,)) -> str:
        known = [
            name for name, blob in self.blobs.items()
            if 0 < blob.classes <= classes and blob.shape == shape and not blob.dead
        ]  # fmt: skip
        return self.draw.choice(known) if known and self.often(0.6) else self.integers(shape)

    def pick(self, wanted: Callable[[Blob], bool], new: Shape, *, data: bool = False) -> str:
        """A blob that suits, those that learn and those without a reader more often than others."""
        weights = {
            name: (4 if blob.learned else 1) * (1 if blob.readers else 4)
            for name, blob in self.blobs.items()
            if wanted(blob)
            and not blob.classes
            and (not blob.dead or self.often(0.1))
            and not (data and blob.learned)
        }
        if not weights or self.often(0.04):
            return self.fresh(new)
        return self.draw.choices(list(weights), list(weights.values()))[0]

    def maps(self, *, data: bool = False, least: int = 1) -> str:
        shape = (N, self.draw.randint(2, 4), self.draw.randint(3, 6), self.draw.randint(3, 6))
        return self.pick(
            lambda b: len(b.shape) == 4 and min(b.shape[2:]) >= least and 0 not in b.shape,
            shape, data=data,
        )  # fmt: skip

    def rows(self, *, data: bool = False) -> str:
        return self.pick(
            lambda b: len(b.shape) > 1 and b.shape[0] == N, (N, self.draw.randint(2, 6)), data=data
        )

    def any_blob(self, *, data: bool = False) -> str:
        return self.pick(lambda b: len(b.shape) > 1, (N, self.draw.randint(2, 6)), data=data)

    def alike(self, name: str) -> str:
        """Another blob of the same shape, or perhaps the same."""
        shape = self.blobs[name].shape
        if self.often(0.1):
            return name
        return self.pick(lambda b: b.shape == shape, shape)

    def flat(self, width: int) -> str:
        """A blob (N, width), through a new layer if need be."""
        found = [n for n, b in self.blobs.items()
                 if b.shape == (N, width) and not b.dead and not b.classes]  # fmt: skip
        if found and self.often(0.7):
            return self.draw.choice(found)
        bottom, top = self.rows(), self.name("t")
        settings = f"inner_product_param {{ num_output: {width} {self.filler()} }}"
        self.append(DrawnLayer(self.name("l"), "InnerProduct", (bottom,), (top,), settings))
        return top

    # Layers

    def append(self, layer: DrawnLayer, *, plain: bool = False) -> bool:
        """Adds a layer if its rule takes it; a plain one gets nothing on top."""
        rule = BUILT_IN[layer.type]
        shapes = tuple(self.blobs[bottom].shape for bottom in layer.bottoms)
        in_place = tuple(
            i < len(layer.bottoms) and layer.bottoms[i] == top for i, top in enumerate(layer.tops)
        )
        site = Site(
            "TRAIN", _settings(layer.type, layer.settings), shapes, len(layer.tops), in_place
        )
        try:
            tops = rule.shape(site)
            params = rule.parameters(site)
        except NetError:
            return False
        if any(min(shape, default=1) < 1 for shape in tops):
            return False
        learned = bool(params) or any(self.blobs[b].learned for b in layer.bottoms)
        dead = any(self.blobs[b].dead for b in layer.bottoms) or layer.type in MIXES
        for bottom in layer.bottoms:
            self.blobs[bottom].readers += 1
        for top, shape in zip(layer.tops, tops, strict=False):
            self.blobs[top] = Blob(shape, learned, dead=dead)
        self.layers.append(layer if plain else self.decorate(layer, len(params)))
        return True

    def decorate(self, layer: DrawnLayer, params: int) -> DrawnLayer:
        """What any layer can have."""
        specs: list[Spec] = []
        if params and layer.type != "BatchNorm" and self.often(0.45):
            specs = [self.spec() for _ in range(self.draw.randint(1, params))]
        elif layer.type == "Parameter" and self.often(0.6):
            specs = [Spec(lr_mult=0)]
        twin = next(
            (i for i, other in enumerate(self.layers)
             if params and other.type == layer.type and other.settings == layer.settings
             and len(other.bottoms) == len(layer.bottoms) and other.type != "BatchNorm"
             and not other.params),
            None,
        )  # fmt: skip
        if twin is not None and self.often(0.9):
            names = [self.name("w") for _ in range(params)]
            self.layers[twin] = replace(self.layers[twin], params=tuple(map(Spec, names)))
            specs = [Spec(name) for name in names]
        weights: tuple[float, ...] = ()
        losses = BUILT_IN[layer.type].is_loss
        if layer.tops and self.often(0.55 if losses else 0.12):
            weights = tuple(
                0 if self.often(0.55 if losses or i else 0.2)
                else round(self.draw.uniform(-0.5, 1.5), 2)
                for i in range(len(layer.tops))
            )  # fmt: skip
        downs: tuple[bool, ...] = ()
        if layer.bottoms and self.often(0.07):
            downs = tuple(
                self.often(0.5) and not (i and layer.type in NO_SECOND_GRADIENT)
                for i in range(len(layer.bottoms))
            )
        rules = self.draw.choice(RULE_TEXTS) if self.often(0.08) else ""
        return replace(
            layer, params=tuple(specs), loss_weights=weights, propagate_down=downs, rules=rules
        )

    def spec(self) -> Spec:
        return Spec(
            lr_mult=self.draw.choice((None, 0, 1, 2, 0.5)),
            decay_mult=self.draw.choice((None, None, 0, 2)),
        )

    def top_of(self, bottom: str, share: float = 0.35) -> str:
        """In place, where no other layer reads the blob, or a new blob."""
        if not self.blobs[bottom].readers and self.often(share):
            return bottom
        return self.name("t")

    def add(self, layer_type: str) -> bool:
        """Adds a layer of a type, after some tries."""
        for _ in range(6):
            layer = TYPES[layer_type](self)
            layer = replace(layer, name=self.name("l"), type=layer_type)
            if (layer.bottoms or layer.tops) and self.append(layer):
                return True
        return False

    def add_twin(self) -> bool:
        """Adds a layer that shares the parameters of an earlier one of its type."""
        owners = [
            layer for layer in self.layers
            if layer.params == () and layer.bottoms and layer.type in SHARING
        ]  # fmt: skip
        if not owners:
            return False
        owner = self.draw.choice(owners)
        shape = self.blobs[owner.bottoms[0]].shape
        bottom = self.alike(owner.bottoms[0])
        if self.blobs[bottom].shape != shape or self.blobs[bottom].classes:
            return False
        twin = replace(
            owner, name=self.name("l"), bottoms=(bottom, *owner.bottoms[1:]),
            tops=tuple(self.name("t") for _ in owner.tops), loss_weights=(), propagate_down=(),
            rules="",
        )  # fmt: skip
        return self.append(twin)

    def start(self) -> None:
        """The first source: a data layer of its own, or inputs."""
        kind = self.draw.choice((*SOURCES, *["Input"] * 5))
        if kind not in SOURCES:
            self.fresh((N, self.draw.randint(2, 4), self.draw.randint(3, 6), 5))
            return
        self.batched, self.steps = True, 0
        labels = SOURCES[kind](self)
        self.blobs[labels] = Blob((N,), classes=CLASSES if kind != "MemoryData" else -1)

    def source(self, kind: str, message: str, tops: tuple[str, ...], shape: Shape) -> None:
        self.sources.append(DrawnLayer(self.name("src"), kind, tops=tops, settings=message))
        self.blobs[tops[0]] = Blob((N, *shape))


@cache
def _settings(layer_type: str, text: str) -> Any:
    """What a rule reads of the text of a layer's messages."""
    net = text_format.Parse(f'layer {{ type: "{layer_type}" {text} }}', caffe_pb2.NetParameter())
    return convert(net.layer[0], BUILT_IN[layer_type]).settings


Drawn = Callable[[Grower], DrawnLayer]


def layer(
    bottoms: tuple[str, ...] | str, tops: tuple[str, ...] | str, settings: str = ""
) -> DrawnLayer:
    """A layer that gets its name and type later."""
    return DrawnLayer(
        "", "", (bottoms,) if isinstance(bottoms, str) else bottoms,
        (tops,) if isinstance(tops, str) else tops, settings,
    )  # fmt: skip


def neuron(*settings: str, share: float = 0.35) -> Drawn:
    def drawn(g: Grower) -> DrawnLayer:
        bottom = g.any_blob()
        return layer(bottom, g.top_of(bottom, share), g.draw.choice(settings or ("",)))

    return drawn


def dead_end(*settings: str) -> Drawn:
    """For types without a gradient: on what doesn't learn, or a branch without a loss."""

    def drawn(g: Grower) -> DrawnLayer:
        bottom = g.any_blob(data=g.often(0.5))
        return layer(bottom, g.top_of(bottom, 0.15), g.draw.choice(settings or ("",)))

    return drawn


def convolution(g: Grower) -> DrawnLayer:
    bottom = g.maps()
    channels = g.blobs[bottom].shape[1]
    group = channels if g.often(0.15) else 1
    outputs = channels if group > 1 or g.often(0.4) else g.draw.randint(2, 5)
    kernel, more = g.draw.choice(((1, ""), (3, "pad: 1"), (2, ""), (2, "stride: 2"),
                                  (2, "dilation: 2"), (3, "")))  # fmt: skip
    bias = "bias_term: false" if g.often(0.2) else g.small_filler("bias_filler")
    settings = (
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} group: {group} "
        f"{g.filler()} {bias} }}"
    )
    if g.often(0.12):
        other = g.alike(bottom)
        return layer((bottom, other), (g.name("t"), g.name("t")), settings)
    same = outputs == channels and (kernel == 1 or "pad" in more)
    return layer(bottom, g.top_of(bottom, 0.2) if same else g.name("t"), settings)


def im2col(g: Grower) -> DrawnLayer:
    kernel = g.draw.choice(("1", "2", "2 stride: 2", "3 pad: 1"))
    return layer(g.maps(), g.name("t"), f"convolution_param {{ kernel_size: {kernel} }}")


def pooling(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=2)
    method = g.draw.choice(("MAX", "AVE", "MAX", "AVE"))
    size = g.draw.choice(("kernel_size: 2", "kernel_size: 2 stride: 2", "kernel_size: 3 pad: 1",
                          "global_pooling: true", "kernel_size: 1"))  # fmt: skip
    settings = f"pooling_param {{ pool: {method} {size} }}"
    if method == "MAX" and g.often(0.15):
        return layer(bottom, (g.name("t"), g.name("t")), settings)
    same = size in ("kernel_size: 1", "kernel_size: 3 pad: 1")
    return layer(bottom, g.top_of(bottom) if same else g.name("t"), settings)


def spp(g: Grower) -> DrawnLayer:
    settings = f"spp_param {{ pyramid_height: {g.draw.randint(1, 2)} pool: MAX }}"
    return layer(g.maps(least=3), g.name("t"), settings)


def scale(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    bias = f"bias_term: true {g.small_filler('bias_filler')}" if g.often(0.4) else ""
    if g.often(0.35):
        axis = g.draw.choice((0, 0, 1)) if len(shape) > 2 else 0
        end = g.draw.randint(axis + 1, len(shape))
        other = g.pick(lambda b: b.shape == shape[axis:end], shape[axis:end])
        return layer((bottom, other), g.top_of(bottom), f"scale_param {{ axis: {axis} {bias} }}")
    axis = 0 if g.often(0.03) else g.draw.randint(1, len(shape) - 1)
    axes = g.draw.choice((1, 1, 0, -1))
    settings = f"scale_param {{ axis: {axis} num_axes: {axes} {g.small_filler('filler')} {bias} }}"
    return layer(bottom, g.top_of(bottom), settings)


def bias(g: Grower) -> DrawnLayer:
    drawn = scale(g)
    settings = drawn.settings.replace("bias_term: true", "").replace("scale_param", "bias_param")
    if "bias_filler" in settings:
        settings = settings.replace(g.small_filler("bias_filler"), "")
    return replace(drawn, settings=settings)


def batch_norm(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    known = "true" if g.often(0.85) else "false"
    return layer(bottom, g.top_of(bottom), f"batch_norm_param {{ use_global_stats: {known} }}")


def mvn(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=2)
    settings = (
        f"mvn_param {{ normalize_variance: {g.draw.choice(('true', 'false'))} "
        f"across_channels: {g.draw.choice(('true', 'false'))} eps: 0.1 }}"
    )
    return layer(bottom, g.top_of(bottom), settings)


def lrn(g: Grower) -> DrawnLayer:
    bottom = g.maps()
    region = g.draw.choice(("ACROSS_CHANNELS", "WITHIN_CHANNEL"))
    settings = f"lrn_param {{ local_size: 3 alpha: 0.7 norm_region: {region} }}"
    return layer(bottom, g.top_of(bottom), settings)


def prelu(g: Grower) -> DrawnLayer:
    bottom = g.rows()
    shared = g.draw.choice(("true", "false"))
    return layer(bottom, g.top_of(bottom), f"prelu_param {{ channel_shared: {shared} }}")


def inner_product(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    steps = shape[0] != N or shape[:2] == (g.steps, N)
    axis = 2 if steps and len(shape) > 2 else 1
    if not steps and len(shape) > 2 and g.often(0.1):
        axis = 2
    width = shape[-1] if g.often(0.3) else g.draw.randint(2, 6)
    bias = "bias_term: false" if g.often(0.2) else g.small_filler("bias_filler")
    transpose = "transpose: true" if g.often(0.15) else ""
    fields = f"num_output: {width} axis: {axis} {transpose} {g.filler()} {bias}"
    settings = f"inner_product_param {{ {fields} }}"
    same = width == shape[-1] and axis == len(shape) - 1
    return layer(bottom, g.top_of(bottom, 0.2) if same else g.name("t"), settings)


def embed(g: Grower) -> DrawnLayer:
    settings = (
        f"embed_param {{ input_dim: {g.draw.randint(3, 7)} num_output: {g.draw.randint(2, 4)} "
        f"{g.filler()} {g.small_filler('bias_filler')} }}"
    )
    return layer(g.labels(4), g.name("t"), settings)


def recurrent(hidden: int) -> Drawn:
    def drawn(g: Grower) -> DrawnLayer:
        if not g.steps:  # no time beside a source of records
            return layer((), ())
        shape = (g.steps, N, g.draw.randint(2, 4))
        x = g.pick(lambda b: b.shape[:2] == (g.steps, N) and len(b.shape) > 2, shape)
        if g.cont is None:
            g.cont = g.integers((g.steps, N))
        width = g.draw.randint(2, 3)
        bottoms, tops = [x, g.cont], [g.name("t")]
        if g.often(0.15):
            bottoms.append(g.flat(g.draw.randint(2, 4)))
        exposed = g.often(0.8)
        if exposed:
            bottoms += [g.fresh((1, N, width)) for _ in range(hidden)]
            tops += [g.name("t") for _ in range(hidden)]
        settings = (
            f"recurrent_param {{ num_output: {width} {g.filler()} {g.small_filler('bias_filler')} "
            f"{'expose_hidden: true' if exposed else ''} }}"
        )
        return layer(tuple(bottoms), tuple(tops), settings)

    return drawn


def first_axis(g: Grower, bottom: str) -> str:
    """The same blob behind a new axis of one."""
    top = g.name("t")
    g.append(DrawnLayer(g.name("l"), "Reshape", (bottom,), (top,),
                        "reshape_param { num_axes: 0 shape { dim: 1 } }"))  # fmt: skip
    return top


def lstm_unit(g: Grower) -> DrawnLayer:
    width = g.draw.randint(2, 3)
    cell = first_axis(g, g.flat(width) if g.often(0.6) else g.fresh((N, width)))
    gates, cont = first_axis(g, g.flat(4 * width)), first_axis(g, g.integers((N,)))
    return layer((cell, gates, cont), (g.name("t"), g.name("t")))


def arg_max(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    settings = g.draw.choice(("", "argmax_param { axis: 1 }", "argmax_param { out_max_val: true }"))
    return layer(bottom, g.name("t"), settings)


def batch_reindex(g: Grower) -> DrawnLayer:
    return layer((g.rows(), g.integers((N,))), g.name("t"))


def filtered(g: Grower) -> DrawnLayer:
    return layer((g.rows(), g.integers((N,))), g.name("t"))


def concat(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    if g.often(0.2):
        return layer(bottom, g.name("t"), "concat_param { axis: 1 }")
    axis = 0 if g.often(0.15) else g.draw.randint(1, len(g.blobs[bottom].shape) - 1)
    others = [g.alike(bottom) for _ in range(g.draw.randint(1, 2))]
    return layer((bottom, *others), g.name("t"), f"concat_param {{ axis: {axis} }}")


def sliced(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    if g.often(0.2):
        return layer(bottom, g.name("t"), "slice_param { axis: 1 }")
    axes = [i for i, size in enumerate(shape) if i and size > 1] or [1]
    axis = g.draw.choice(axes)
    if shape[axis] > 2 and g.often(0.5):
        settings = f"slice_param {{ axis: {axis} slice_point: 1 }}"
        return layer(bottom, (g.name("t"), g.name("t")), settings)
    tops = tuple(g.name("t") for _ in range(shape[axis] if g.often(0.5) else 2))
    return layer(bottom, tops, f"slice_param {{ axis: {axis} }}")


def crop(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=3)
    shape = g.blobs[bottom].shape
    reference = (*shape[:2], shape[2] - 1, shape[3] - 1)
    other = g.pick(lambda b: b.shape == reference, reference)
    return layer((bottom, other), g.name("t"), "crop_param { axis: 2 offset: 1 }")


def eltwise(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    others = [g.alike(bottom) for _ in range(g.draw.choice((1, 1, 2)))]
    operation = g.draw.choice(("SUM", "PROD", "MAX", "SUM"))
    more = ""
    if operation == "SUM" and g.often(0.4):
        more = " ".join(f"coeff: {g.draw.choice((0.5, -1, 2))}" for _ in [bottom, *others])
    if operation == "PROD" and g.often(0.3):
        more = "stable_prod_grad: false"
    settings = f"eltwise_param {{ operation: {operation} {more} }}"
    return layer((bottom, *others), g.top_of(bottom, 0.25), settings)


def flatten(g: Grower) -> DrawnLayer:
    return layer(g.any_blob(), g.name("t"))


def reshape(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    settings = g.draw.choice(
        ("shape { dim: 0 dim: -1 }", "shape { dim: 0 dim: 1 dim: -1 }", "shape { dim: 0 dim: 0 }",
         f"shape {{ dim: {N} dim: -1 }}", "shape { dim: 0 dim: -1 dim: 1 dim: 1 }")
    )  # fmt: skip
    return layer(bottom, g.name("t"), f"reshape_param {{ {settings} }}")


def reduction(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    operation = g.draw.choice(("SUM", "ASUM", "SUMSQ", "MEAN"))
    axis = 0 if g.often(0.4) else 1
    settings = f"reduction_param {{ operation: {operation} axis: {axis} coeff: 0.3 }}"
    return layer(bottom, g.name("t"), settings)


def silence(g: Grower) -> DrawnLayer:
    return layer(tuple({g.any_blob() for _ in range(g.draw.choice((1, 1, 2)))}), ())


def softmax(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    axis = 2 if shape[:2] == (g.steps, N) and len(shape) > 2 else 1
    return layer(bottom, g.top_of(bottom), f"softmax_param {{ axis: {axis} }}")


def split(g: Grower) -> DrawnLayer:
    return layer(g.any_blob(), tuple(g.name("t") for _ in range(g.draw.randint(1, 3))))


def tile(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    tiles = 1 if g.often(0.2) else 2
    same = tiles == 1
    return layer(
        bottom, g.top_of(bottom, 0.3) if same else g.name("t"),
        f"tile_param {{ axis: 1 tiles: {tiles} }}",
    )  # fmt: skip


def parameter(g: Grower) -> DrawnLayer:
    dims = " ".join(f"dim: {g.draw.randint(1, 3)}" for _ in range(g.draw.randint(1, 2)))
    return layer((), g.name("t"), f"parameter_param {{ shape {{ {dims} }} }}")


def accuracy(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
    tops = (g.name("t"),) if g.often(0.8) else (g.name("t"), g.name("t"))
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), tops)


def hdf5_output(g: Grower) -> DrawnLayer:
    first = g.any_blob()
    return layer((first, g.rows()), (), 'hdf5_output_param { file_name: "out.h5" }')


def normalization(g: Grower) -> str:
    kinds = ("FULL", "BATCH_SIZE", "NONE", "VALID")
    written = ("", "normalize: false", "normalize: true")
    kind = g.draw.choice((*written, *(f"normalization: {kind}" for kind in kinds)))
    ignore = "ignore_label: 1" if g.often(0.1) else ""
    return f"loss_param {{ {kind} {ignore} }}"


def label_loss(g: Grower) -> DrawnLayer:
    """SoftmaxWithLoss: rows, or maps with a label a place."""
    settings = normalization(g)
    if g.often(0.25):
        bottom = g.maps()
        shape = g.blobs[bottom].shape
        label = g.integers((shape[0], *shape[2:]))
    else:
        bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
        label = g.labels(g.blobs[bottom].shape[1])
    tops = (g.name("t"), g.name("t")) if g.often(0.15) else (g.name("t"),)
    return layer((bottom, label), tops, settings)


def hinge(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4, 5)))
    settings = g.draw.choice(("", "hinge_loss_param { norm: L2 }"))
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), g.name("t"), settings)


def multinomial(g: Grower) -> DrawnLayer:
    bottom, top = g.flat(g.draw.choice((2, 3, 4, 5))), g.name("t")
    kind = "Softmax" if g.often(0.7) else "Sigmoid"
    if g.append(DrawnLayer(g.name("l"), kind, (bottom,), (top,))):
        bottom = top
    return layer((bottom, g.labels(g.blobs[bottom].shape[1])), g.name("t"))


def infogain(g: Grower) -> DrawnLayer:
    bottom = g.flat(g.draw.choice((2, 3, 4)))
    classes = g.blobs[bottom].shape[1]
    matrix, name = g.name("d"), g.name("in")
    settings = (
        f"dummy_data_param {{ shape {{ dim: {classes} dim: {classes} }} "
        "data_filler { value: 0.4 } }"
    )
    g.sources.append(DrawnLayer(name, "DummyData", tops=(matrix,), settings=settings))
    g.blobs[matrix] = Blob((classes, classes), classes=-1)
    return layer((bottom, g.labels(classes), matrix), g.name("t"), normalization(g))


def sigmoid_loss(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    return layer((bottom, g.integers(g.blobs[bottom].shape)), g.name("t"), normalization(g))


def euclidean(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    return layer((bottom, g.alike(bottom)), g.name("t"))


def contrastive(g: Grower) -> DrawnLayer:
    width = g.draw.randint(2, 4)
    legacy = g.draw.choice(("true", "false"))
    settings = f"contrastive_loss_param {{ margin: 2 legacy_version: {legacy} }}"
    return layer((g.flat(width), g.flat(width), g.integers((N,))), g.name("t"), settings)


TYPES: dict[str, Drawn] = {
    "AbsVal": neuron(share=0),
    "Accuracy": accuracy,
    "ArgMax": arg_max,
    "BNLL": neuron(),
    "BatchNorm": batch_norm,
    "BatchReindex": batch_reindex,
    "Bias": bias,
    "Clip": neuron("clip_param { min: -0.3 max: 0.6 }"),
    "Concat": concat,
    "ContrastiveLoss": contrastive,
    "Convolution": convolution,
    "Crop": crop,
    "Deconvolution": convolution,
    "Dropout": neuron("", "dropout_param { dropout_ratio: 0.3 }"),
    "ELU": neuron("", "elu_param { alpha: 0.5 }", "elu_param { alpha: -0.5 }"),
    "Eltwise": eltwise,
    "Embed": embed,
    "EuclideanLoss": euclidean,
    "Exp": neuron("exp_param { scale: 0.3 }", "exp_param { base: 2 scale: -0.4 shift: 0.1 }"),
    "Filter": filtered,
    "Flatten": flatten,
    "HDF5Output": hdf5_output,
    "HingeLoss": hinge,
    "Im2col": im2col,
    "InfogainLoss": infogain,
    "InnerProduct": inner_product,
    "LRN": lrn,
    "LSTM": recurrent(2),
    "LSTMUnit": lstm_unit,
    "Log": neuron("log_param { scale: 0.1 shift: 3 }", "log_param { base: 2 scale: 0.2 shift: 4 }"),
    "MVN": mvn,
    "MultinomialLogisticLoss": multinomial,
    "PReLU": prelu,
    "Parameter": parameter,
    "Pooling": pooling,
    "Power": neuron(
        "power_param { power: 2 scale: 0.5 shift: 0.3 }", "power_param { scale: 2 shift: 0.1 }",
        "power_param { scale: -0.5 }", "power_param { power: 3 scale: 0.3 shift: 0.2 }",
        "power_param { power: 3 scale: 0.4 }", "power_param { power: 0 }",
        "power_param { scale: 0 shift: 0.7 }", "power_param { power: 2 }",
    ),
    "RNN": recurrent(1),
    "ReLU": neuron("", *(f"relu_param {{ negative_slope: {slope} }}" for slope in (0, 0.2, -0.3))),
    "Reduction": reduction,
    "Reshape": reshape,
    "SPP": spp,
    "Scale": scale,
    "Sigmoid": neuron(),
    "SigmoidCrossEntropyLoss": sigmoid_loss,
    "Silence": silence,
    "Slice": sliced,
    "Softmax": softmax,
    "SoftmaxWithLoss": label_loss,
    "Split": split,
    "Swish": neuron("", "swish_param { beta: 1.5 }"),
    "TanH": neuron(),
    "Threshold": dead_end("threshold_param { threshold: 0.3 }"),
    "Tile": tile,
}  # fmt: skip


def _data(g: Grower) -> str:
    mirror = "mirror: true crop_size: 3" if g.often(0.3) else ""
    settings = (
        f'data_param {{ source: "{g.folder}/lmdb" backend: LMDB batch_size: {N} }} '
        f"transform_param {{ scale: 0.005 {mirror} }}"
    )
    shape = (SHAPE[0], 3, 3) if mirror else SHAPE
    g.source("Data", settings, ("data", "label"), shape)
    return "label"


def _hdf5(g: Grower) -> str:
    shuffle = g.draw.choice(("true", "false"))
    settings = (
        f'hdf5_data_param {{ source: "{g.folder}/rows.txt" batch_size: {N} shuffle: {shuffle} }}'
    )
    g.source("HDF5Data", settings, ("hdata", "hlabel"), SHAPE)
    return "hlabel"


def _images(g: Grower) -> str:
    shuffle = g.draw.choice(("true", "false"))
    settings = (
        f'image_data_param {{ source: "{g.folder}/images.txt" batch_size: {N} shuffle: {shuffle} }}'
        " transform_param { scale: 0.005 mirror: true }"
    )
    g.source("ImageData", settings, ("data", "label"), SHAPE)
    return "label"


def _windows(g: Grower) -> str:
    settings = (
        f'window_data_param {{ source: "{g.folder}/windows.txt" batch_size: {N} '
        "fg_fraction: 0.5 } transform_param { crop_size: 3 scale: 0.005 }"
    )
    g.source("WindowData", settings, ("data", "label"), (3, 3, 3))
    return "label"


def _memory(g: Grower) -> str:
    channels, height, width = SHAPE
    settings = (
        f"memory_data_param {{ batch_size: {N} channels: {channels} height: {height} "
        f"width: {width} }}"
    )
    g.source("MemoryData", settings, ("data", "label"), SHAPE)
    return "label"


SOURCES: dict[str, Callable[[Grower], str]] = {
    "Data": _data,
    "HDF5Data": _hdf5,
    "ImageData": _images,
    "MemoryData": _memory,
    "WindowData": _windows,
}

#: Whose tops hold samples that were chosen or mixed.
MIXES = ("ArgMax", "BatchReindex", "Filter", "Accuracy", "Threshold", "Parameter")
#: Types with parameters that two layers can share.
SHARING = ("Bias", "Convolution", "Deconvolution", "InnerProduct", "LSTM", "PReLU", "RNN", "Scale")
#: Types of which only the first bottom may get a gradient.
NO_SECOND_GRADIENT = (
    "Accuracy", "BatchReindex", "Filter", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss", "SoftmaxWithLoss", "LSTM", "RNN", "LSTMUnit",
)  # fmt: skip
RULE_TEXTS = (
    "include { phase: TRAIN }", 'include { stage: "on" }', 'exclude { stage: "off" }',
    'include { not_stage: "off" }', "exclude { phase: TEST }", "include { min_level: 0 }",
)  # fmt: skip

#: Recurrent layers and those without a gradient find a place less often than others.
WEIGHTS = [
    3 if kind in ("LSTM", "RNN") else 1.5 if kind in ("ArgMax", "Threshold", "Embed") else 1
    for kind in TYPES
]

#: Losses for what has no reader in the end.
LAST = ("EuclideanLoss", "SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "Reduction", "HingeLoss",
        "ContrastiveLoss", "InfogainLoss", "MultinomialLogisticLoss")  # fmt: skip


def draw_case(seed: int, folder: str) -> Case:
    """The training of a seed; sources lie in the folder (see sources.py)."""
    grower = Grower(seed, folder)
    draw = grower.draw
    grower.start()
    for _ in range(draw.randint(3, 9)):
        if not (grower.often(0.15) and grower.add_twin()):
            grower.add(draw.choices(list(TYPES), WEIGHTS)[0])
    if not any(spec.learned for spec in grower.blobs.values()):
        grower.add("InnerProduct")
    _close(grower)
    layers = (*grower.sources, *grower.layers)
    if grower.often(0.1):  # another phase's layers are left out
        layers = (*layers, DrawnLayer("left_out", "Silence", (layers[0].tops[0],),
                                      rules="include { phase: TEST }"))  # fmt: skip
    net = {"force_backward": "true"} if grower.often(0.08) else {}
    batch_size = draw.choice((1, 1, 1, 2, 2, 3, 4))
    return Case(layers, _solver(draw), batch_size, draw.choice((2, 2, 3, 3, 4)), net)


def _close(grower: Grower) -> None:
    """Losses for most of what learns and has no reader; at least one in all."""
    open_ends = [n for n, b in grower.blobs.items() if b.learned and not b.readers and not b.dead]
    done = 0
    for name in open_ends:
        if grower.blobs[name].readers or (done and grower.often(0.4)):
            continue
        shape = grower.blobs[name].shape
        bottoms: tuple[str, ...] = (name,)
        weights: tuple[float, ...] = ()
        if len(shape) > 1 and shape[0] == N and grower.often(0.6):
            bottoms = (name, grower.fresh(shape))
            settings, kind = "", "EuclideanLoss"
        else:
            kind, weights = "Reduction", (0.5,)
            settings = "reduction_param { operation: SUMSQ coeff: 0.2 }"
        layer = DrawnLayer(grower.name("l"), kind, bottoms, (grower.name("t"),), settings)
        if grower.append(layer):
            grower.layers[-1] = replace(
                grower.layers[-1], loss_weights=weights, propagate_down=(), rules=""
            )
            done += 1
    if not done:
        grower.add(grower.draw.choice(LAST))
        last = grower.layers[-1]
        weights = (round(grower.draw.uniform(0.2, 1.5), 2), *(0,) * (len(last.tops) - 1))
        grower.layers[-1] = replace(last, loss_weights=weights, propagate_down=(), rules="")


def _solver(draw: random.Random) -> dict[str, str]:
    kind = draw.choice(SOLVERS)
    fields = {
        "type:": f'"{kind}"',
        "base_lr:": str(draw.choice((0.001, 0.01, 0.05))),
        "lr_policy:": draw.choice(('"fixed"', '"step" gamma: 0.5 stepsize: 2',
                                   '"inv" gamma: 0.1 power: 0.75', '"poly" power: 1')),
        "max_iter:": "20",
        "random_seed:": str(draw.randint(1, 1000)),
        "average_loss:": str(draw.choice((1, 2))),
        "train_state": '{ stage: "on" }',
    }  # fmt: skip
    if kind in ("SGD", "Nesterov", "Adam", "AdaDelta") and draw.random() < 0.8:
        fields["momentum:"] = "0.9"
    if kind in ("AdaDelta", "AdaGrad", "RMSProp"):
        fields["delta:"] = "1e-6"
    if draw.random() < 0.5:
        fields["weight_decay:"] = draw.choice(("0.01", "0.3"))
        fields["regularization_type:"] = draw.choice(('"L1"', '"L2"', '"L2"'))
    if draw.random() < 0.3:
        fields["clip_gradients:"] = draw.choice(("0.01", "0.3", "10"))
    if draw.random() < 0.2:
        fields["iter_size:"] = draw.choice(("2", "3"))
    return fields
