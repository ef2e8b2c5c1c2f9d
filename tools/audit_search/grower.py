"""A net that grows layer by layer: its blobs, and what any layer can have on top."""

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
from tools.audit_search.nets import FILE_BATCH, DrawnLayer, Spec

N = FILE_BATCH
FILLERS = ('"xavier"', '"gaussian" std: 0.4', '"uniform" min: -0.7 max: 0.8', '"msra"')

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

    def source(self, kind: str, message: str, tops: tuple[str, ...], shape: Shape) -> None:
        self.sources.append(DrawnLayer(self.name("src"), kind, tops=tops, settings=message))
        self.blobs[tops[0]] = Blob((N, *shape))


@cache
def _settings(layer_type: str, text: str) -> Any:
    """What a rule reads of the text of a layer's messages."""
    net = text_format.Parse(f'layer {{ type: "{layer_type}" {text} }}', caffe_pb2.NetParameter())
    return convert(net.layer[0], BUILT_IN[layer_type]).settings


#: A function that draws a layer of one type; without bottoms and tops where there is no place.
Drawn = Callable[[Grower], DrawnLayer]


def layer(
    bottoms: tuple[str, ...] | str, tops: tuple[str, ...] | str, settings: str = ""
) -> DrawnLayer:
    """A layer that gets its name and type later."""
    return DrawnLayer(
        "", "", (bottoms,) if isinstance(bottoms, str) else bottoms,
        (tops,) if isinstance(tops, str) else tops, settings,
    )  # fmt: skip


def dead_end(*settings: str) -> Drawn:
    """For types without a gradient: on what doesn't learn, or a branch without a loss."""

    def drawn(g: Grower) -> DrawnLayer:
        bottom = g.any_blob(data=g.often(0.5))
        return layer(bottom, g.top_of(bottom, 0.15), g.draw.choice(settings or ("",)))

    return drawn


def neuron(*settings: str, share: float = 0.35) -> Drawn:
    def drawn(g: Grower) -> DrawnLayer:
        bottom = g.any_blob()
        return layer(bottom, g.top_of(bottom, share), g.draw.choice(settings or ("",)))

    return drawn
