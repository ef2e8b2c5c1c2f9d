"""A net of this project's graph as a list of steps on tensors.

No tracing, no generated code: one forward pass is a plain loop over the steps, and autograd does
the rest. What Caffe's own Backward does differently from the derivative is in the layers.

A gradient flows where Caffe's does: the graph says which layers have a Backward and which bottoms
and parameters get a gradient, and all others are detached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers import FED, make_layer
from caffe_batch.engines.torch.layers.base import Place, TorchLayer
from caffe_batch.engines.torch.layers.batch_norm import BatchNorm, ScaledBatchNorm
from caffe_batch.engines.torch.layers.neurons import ReLU
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Shape
from caffe_batch.net import Net, NetFile
from caffe_batch.net.graph import AUTOMATIC, Node
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class Param:
    """A learnable blob, in Caffe's order (net.cpp, learnable_params).

    Attributes:
        layer, index: Its owner: the first layer that has it, and which of its blobs it is.
        value: Its numbers; ``value.grad`` is the sum of the gradients since it was last cleared.
            The statistics of a BatchNorm and what is frozen have no gradient.
        lr_mult, decay_mult: As Caffe applies them.
    """

    layer: str
    index: int
    value: torch.nn.Parameter
    lr_mult: float
    decay_mult: float


class LayerBlobs(NamedTuple):
    """A layer as a .caffemodel lists it; shared blobs are listed by each of their layers.

    Attributes:
        name, type: The layer's.
        averages: Whether the parameters are moving averages, which each pass changes.
        blobs: Its parameters, in the shapes of this layer.
        message: The layer as it is written.
    """

    name: str
    type: str
    averages: bool
    blobs: tuple[Tensor, ...]
    message: caffe_pb2.LayerParameter


class Output(NamedTuple):
    """A top that no layer reads: what Caffe prints and a test averages.

    Attributes:
        name: The blob's name.
        loss_weight: Its part in the loss; 0 for scores.
        elements: How many values it has.
    """

    name: str
    loss_weight: float
    elements: int


@dataclass(frozen=True)
class Pass:
    """What a forward pass gave.

    Attributes:
        loss: The weighted sum of all losses, a scalar on the device, detached.
        outputs: The outputs by name, in Caffe's order, detached.
        blobs: Those that were asked for, with their graph.
        root: What Backward starts from; None if nothing gets a gradient.
    """

    loss: Tensor
    outputs: dict[str, Tensor]
    blobs: dict[str, Tensor]
    root: Tensor | None


@dataclass
class _Step:
    """One layer in the loop.

    Attributes:
        bottoms, tops: Indices of blobs.
        cut: Which bottoms are detached.
        blobs: Its parameters, detached where frozen.
        shapes: Those that this layer sees, where they differ from the owner's.
        losses: Pairs of a top and its weight.
        dead: Blobs that no later step reads.
    """

    name: str
    layer: TorchLayer
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    cut: tuple[bool, ...]
    blobs: list[Tensor]
    shapes: tuple[Shape, ...] | None
    losses: tuple[tuple[int, float], ...]
    dead: tuple[int, ...]


class TorchNet:
    """One net for one phase, ready to run.

    Args:
        net: The graph.
        layers: The layers of this phase as they are written, in the order of the file
            (``[message for _, message in file.selected()]``).
        device, dtype: Where it runs, and in which precision.
        draws: Caffe's random numbers, for the fillers; nets must be built in Caffe's order.
        trained: The train net whose weights a test net shares, by layer name.
        at_data: Called at the place of each layer whose tops are fed, in order: a data layer may
            draw its seeds from ``draws`` there, as Caffe's does.
        gradients: Whether Backward is wanted; by default in a TRAIN net.

    Raises:
        InputError: A layer type that PyTorch doesn't run; a test net that can't share.

    Attributes:
        params: The learnable blobs, in Caffe's order.
        outputs: What no layer reads, in Caffe's order (sorted by name).
        fed: The tops that :meth:`forward` must be given, with their shapes as built.
        hidden: Blobs inside a step that stands for two layers; a pass that is to keep one of them
            runs all layers one by one.
    """

    def __init__(
        self,
        net: Net,
        layers: Sequence[caffe_pb2.LayerParameter],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        draws: Draws | None = None,
        trained: TorchNet | None = None,
        at_data: Callable[[Node, caffe_pb2.LayerParameter], None] | None = None,
        gradients: bool | None = None,
    ) -> None:
        self.net = net
        self.device = torch.device(device)
        self.dtype = dtype
        self.gradients = net.phase == "TRAIN" if gradients is None else gradients
        places = list(_places(net, layers, self.device, dtype))
        draws = draws or Draws()
        self._layers: list[TorchLayer | None] = []
        self.params: list[Param] = []
        for place in places:
            self._add(place, draws, at_data)
        self._blobs = [
            [self.params[index].value for index in place.node.params] for place in places
        ]
        self._places = places
        if trained is not None:
            self._share(trained)
        self._overwritten = _overwritten(net) if self.gradients else {}
        self._steps = self._make_steps()
        self._fused, self.hidden = self._fuse(self._steps)
        self.fed: dict[str, Shape] = {
            net.blobs[top].name: net.blobs[top].shape
            for node in net.nodes if node.layer.type in FED for top in node.tops
        }  # fmt: skip
        weights = {
            top: w for node in net.nodes for top, w in zip(node.tops, node.loss, strict=True)
        }
        self.outputs = tuple(
            Output(net.blobs[i].name, weights[i], prod(net.blobs[i].shape))
            for i in sorted(_unread(net), key=lambda i: net.blobs[i].name)
        )

    @classmethod
    def of_file(cls, file: NetFile, net: Net, **options: object) -> TorchNet:
        """The net that was built from a file (see the constructor)."""
        return cls(net, [message for _, message in file.selected()], **options)  # type: ignore[arg-type]

    # Building

    def _add(
        self,
        place: Place,
        draws: Draws,
        at_data: Callable[[Node, caffe_pb2.LayerParameter], None] | None,
    ) -> None:
        """Makes a layer and those of its parameters that it owns."""
        node = place.node
        if node.layer.type in FED:
            self._layers.append(None)
            if at_data is not None:
                at_data(node, place.message)
            return
        layer = make_layer(place)
        self._layers.append(layer)
        values = layer.fill(draws)  # a shared blob is filled by each of its layers, too
        for index, value in zip(node.params, values, strict=True):
            if index == len(self.params):
                spec = self.net.params[index]
                rate = 1.0 if spec.lr_mult is None else spec.lr_mult
                tensor = torch.as_tensor(value).to(self.device, self.dtype)
                self.params.append(
                    Param(
                        spec.layer,
                        spec.index,
                        torch.nn.Parameter(tensor, requires_grad=False),
                        0.0 if node.rule.fixed_parameters else rate,
                        1.0 if spec.decay_mult is None else spec.decay_mult,
                    )
                )

    def _share(self, trained: TorchNet) -> None:
        """Takes the train net's blobs, by layer name (net.cpp, ShareTrainedLayersWith)."""
        here: dict[str, int] = {}
        for i, place in enumerate(self._places):
            here.setdefault(place.name, i)
        for place, theirs in zip(trained._places, trained._blobs, strict=True):
            if place.name not in here:
                continue
            i = here[place.name]
            own = self._places[i].node.param_shapes
            if own != place.node.param_shapes:
                raise InputError(
                    f"layer {place.name!r} of a test net has parameters {own}, and in the train "
                    f"net {place.node.param_shapes}: it can't share them",
                    hint="Give the layer of the test net another name, or the same settings.",
                )
            self._blobs[i] = theirs
            for index, value in zip(self._places[i].node.params, theirs, strict=True):
                self.params[index] = replace(self.params[index], value=value)

    def _make_steps(self) -> list[_Step]:
        last = {i: n for n, node in enumerate(self.net.nodes) for i in (*node.bottoms, *node.tops)}
        kept = _unread(self.net)
        dead: dict[int, list[int]] = {}
        for i, end in last.items():
            if i not in kept:
                dead.setdefault(end, []).append(i)
        return [
            self._step(n, place, layer, tuple(dead.get(n, ())))
            for n, (place, layer) in enumerate(zip(self._places, self._layers, strict=True))
            if layer is not None
        ]

    def _step(self, n: int, place: Place, layer: TorchLayer, dead: tuple[int, ...]) -> _Step:
        node, site = place.node, place.site
        blobs: list[Tensor] = []
        for blob, index, need in zip(self._blobs[n], node.params, site.param_need, strict=True):
            learns = self.gradients and site.backward and (need or node.rule.recurrent)
            learns = learns and not node.rule.fixed_parameters
            learns = learns and n <= self._overwritten.get(index, n)
            if learns:
                blob.requires_grad_(True)
            blobs.append(blob if learns else blob.detach())
        shapes = tuple([tuple(blob.shape) for blob in blobs])
        return _Step(
            name=place.name,
            layer=layer,
            bottoms=node.bottoms,
            tops=node.tops,
            cut=tuple([not need for need in layer.needs()]),
            blobs=blobs,
            shapes=node.param_shapes if shapes != node.param_shapes else None,
            losses=tuple(
                [(i, w) for i, w in enumerate(node.loss) if w and layer.keeps_loss_weights]
            ),
            dead=dead,
        )

    def _fuse(self, steps: Sequence[_Step]) -> tuple[list[_Step], frozenset[str]]:
        """The faster way through the same net; and the blobs that don't come into being on it.

        A BatchNorm and the Scale that follows it become one step, and a ReLU in place writes over
        what the layer before it has made.
        """
        fused: list[_Step] = []
        hidden: set[str] = set()
        for step in steps:
            last = fused[-1] if fused else None
            if (
                last is not None
                and isinstance(last.layer, BatchNorm)
                and ScaledBatchNorm.fits(last.layer, step.layer)
                and last.tops == step.bottoms
                and last.shapes is step.shapes is None
                and not last.losses
                and (last.cut[0] or not step.cut[0])
            ):
                fused[-1] = replace(
                    last,
                    name=f"{last.name} and {step.name}",
                    layer=ScaledBatchNorm(last.layer),
                    tops=step.tops,
                    blobs=[*last.blobs, *step.blobs],
                    losses=step.losses,
                    dead=(*last.dead, *step.dead),
                )
                if last.tops != step.tops:
                    hidden.add(self.net.blobs[last.tops[0]].name)
                continue
            if isinstance(step.layer, ReLU) and step.layer.place.in_place:
                made = next((s for s in reversed(fused) if step.bottoms[0] in s.tops), None)
                step.layer.overwrites = made is not None and made.layer.fresh
            fused.append(step)
        return fused, frozenset(hidden)

    @property
    def layer_blobs(self) -> list[LayerBlobs]:
        """All layers, inserted Splits too, as a .caffemodel lists them (net.cpp, ToProto)."""
        return [_listed(*each) for each in zip(self._places, self._blobs, strict=True)]

    def layer_values(self, values: Sequence[Tensor]) -> list[LayerBlobs]:
        """The same list with other values in place of :attr:`params`, one for each."""
        return [
            _listed(place, [values[index] for index in place.node.params]) for place in self._places
        ]

    @property
    def running(self) -> list[TorchLayer]:
        """The layers that a pass may run: one by one, then those that stand for two."""
        layers = [step.layer for step in self._steps]
        return [*layers, *(s.layer for s in self._fused if s.layer not in layers)]

    # Running

    def forward(self, fed: Mapping[str, Tensor], keep: Collection[str] = ()) -> Pass:
        """One forward pass.

        Args:
            fed: The tops of the data layers by name, on the device and in the net's precision.
                With ``force_backward``, those that require a gradient get one.
            keep: Names of further blobs to return; in place, the last value counts.
        """
        with torch.set_grad_enabled(self.gradients):
            return self._forward(fed, keep)

    def _forward(self, fed: Mapping[str, Tensor], keep: Collection[str]) -> Pass:
        names = self.net.blobs
        values: list[Tensor | None] = [fed.get(blob.name) for blob in names]
        kept: dict[str, Tensor] = {}
        loss: Tensor | None = None
        asides: list[Tensor] = []
        for step in self._fused if self.hidden.isdisjoint(keep) else self._steps:
            bottoms: list[Tensor] = []
            for i, cut in zip(step.bottoms, step.cut, strict=True):
                value = values[i]
                if value is None:
                    raise InputError(f"blob {names[i].name!r} wasn't fed")
                bottoms.append(value.detach() if cut else value)
            blobs: Sequence[Tensor] = step.blobs
            if step.shapes is not None:
                blobs = [b.view(s) for b, s in zip(blobs, step.shapes, strict=True)]
            tops = step.layer.forward(bottoms, blobs)
            for i, top in zip(step.tops, tops, strict=True):
                values[i] = top
                if keep and names[i].name in keep:
                    kept[names[i].name] = top
            for i, weight in step.losses:
                term = tops[i].sum() * weight
                loss = term if loss is None else loss + term
            if step.layer.aside is not None:
                asides.append(step.layer.aside)
                step.layer.aside = None
            for i in step.dead:
                values[i] = None
        for i, value in enumerate(values):
            if value is not None and names[i].name in keep:
                kept.setdefault(names[i].name, value)
        by_name = {blob.name: value for blob, value in zip(names, values, strict=True)}
        roots = [part for part in (loss, *asides) if part is not None and part.requires_grad]
        total = torch.zeros((), device=self.device, dtype=self.dtype) if loss is None else loss
        return Pass(
            loss=total.detach(),
            outputs={
                output.name: value.detach()
                for output in self.outputs
                if (value := by_name[output.name]) is not None
            },
            blobs=kept,
            root=sum(roots[1:], roots[0]) if roots else None,
        )

    def backward(self, done: Pass) -> None:
        """Adds the gradients of a pass to ``value.grad`` of the parameters.

        Some layers of Caffe overwrite the gradient of a parameter instead of adding to it (a Scale
        at batch_size 1, a Parameter): so does this.
        """
        for index in self._overwritten:
            self.params[index].value.grad = None
        if done.root is not None:
            torch.autograd.backward(done.root)

    def clear_gradients(self) -> None:
        """Before an update: no parameter has a gradient."""
        for param in self.params:
            param.value.grad = None


def _places(
    net: Net,
    layers: Sequence[caffe_pb2.LayerParameter],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Place]:
    """Each node with the message it came from; inserted Splits have none of their own."""
    written = iter(layers)
    owned = 0
    for node in net.nodes:
        message = (
            caffe_pb2.LayerParameter(name=node.layer.name, type=node.layer.type)
            if node.layer.rule is None
            else next(written)
        )
        shared = tuple([index < owned for index in node.params])
        owned = max((owned, *(index + 1 for index in node.params)))
        yield Place(message, node, shared, device, dtype)


def _listed(place: Place, blobs: Sequence[Tensor]) -> LayerBlobs:
    """A layer with its blobs in its own shapes."""
    shaped = zip(blobs, place.node.param_shapes, strict=True)
    return LayerBlobs(
        place.name,
        place.node.layer.type,
        bool(place.rule.moving_average),
        tuple([blob.detach().view(shape) for blob, shape in shaped]),
        place.message,
    )


def _unread(net: Net) -> set[int]:
    """The blobs that no layer reads; a top without a name isn't among them."""
    named = {i for i, blob in enumerate(net.blobs) if blob.name != AUTOMATIC}
    read: set[int] = set()
    for node in net.nodes:
        read |= set(node.bottoms)
        read -= set(node.tops)
    return named - read


def _overwritten(net: Net) -> dict[int, int]:
    """Parameters whose gradient a layer overwrites: the first such layer.

    Backward runs from the last layer to the first, so what later layers have added is lost.
    """
    first: dict[int, int] = {}
    for n, node in enumerate(net.nodes):
        if not node.site.backward:
            continue
        for which in node.rule.coupling(node.site).overwrites:
            if node.site.param_need[which]:
                first.setdefault(node.params[which], n)
    return first
