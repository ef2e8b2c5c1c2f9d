"""What a layer of the PyTorch engine is.

A layer is made once from its :class:`Place`; from then on it is a function of tensors. Shapes of
bottoms are those of the tensors it gets, which may change from pass to pass (Filter, Python
layers), so ``place.site`` is only for what the shapes of parameters follow from.

A layer returns new tensors. Whether its top is in place matters only where Caffe's own Backward
reads what Forward has overwritten: such a layer imitates that (see :mod:`.neurons`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from caffe_batch.engines.torch.fillers import Array, Draws, fill
from caffe_batch.layers.base import Rule, Shape, Site
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    from caffe_batch.net.graph import Node

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Place:
    """One layer at its place in a net.

    Attributes:
        message: The layer as it is written; an empty message for the Splits that Caffe inserts.
        node: The same layer in the graph: its rule, its site, its parameters.
        shared: Which of its parameters an earlier layer owns.
        device, dtype: Where the net runs, and in which precision.
    """

    message: caffe_pb2.LayerParameter
    node: Node
    shared: tuple[bool, ...]
    device: torch.device
    dtype: torch.dtype

    @property
    def site(self) -> Site:
        """What its rule sees."""
        return self.node.site

    @property
    def rule(self) -> Rule:
        """What its type does."""
        return self.node.rule

    @property
    def settings(self) -> Any:
        """The rule's settings: what shapes and memory depend on."""
        return self.node.site.settings

    @property
    def name(self) -> str:
        """The layer's name, for messages."""
        return self.node.layer.name

    @property
    def in_place(self) -> bool:
        """Whether its first top is its first bottom."""
        return bool(self.site.in_place) and self.site.in_place[0]

    def shapes(self, bottoms: Tensors) -> tuple[Shape, ...]:
        """Shapes of the tops for bottoms of other shapes than the net was built with."""
        site = replace(self.site, bottoms=tuple([tuple(bottom.shape) for bottom in bottoms]))
        return self.rule.shape(site)


class Together(Protocol):
    """The ranks that run the same pass at the same time, each with its samples."""

    @property
    def size(self) -> int:
        """How many there are."""

    def add_up(self, values: Tensor) -> None:
        """Replace a tensor by its sum over all of them."""


class TorchLayer(ABC):
    """One layer, ready to run.

    Attributes:
        place: Where it is.
        drawn: Whether a forward pass draws random numbers or changes a state, so that two passes
            differ.
        keeps_loss_weights: Whether a loss weight of its tops counts; Caffe clears some of them.
        aside: After a forward pass, a scalar whose gradient is added to that of the loss: for what
            Caffe's Forward leaves in the gradient of a bottom. None for most types.
        fresh: Whether its top is a new tensor, which its own gradient doesn't depend on: then the
            next layer may overwrite it.
        together: The ranks with whose samples it counts and averages; None for its own alone.
    """

    together: Together | None = None
    drawn: bool = False
    keeps_loss_weights: bool = True
    aside: Tensor | None = None
    fresh: bool = False

    def __init__(self, place: Place) -> None:
        self.place = place

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        """How the parameters are filled, one each."""
        return ()

    def fill(self, draws: Draws) -> list[Array]:
        """The first values of the parameters, drawn in Caffe's order."""
        shapes = self.place.node.param_shapes
        return [
            fill(filler, shape, draws) for filler, shape in zip(self.fillers(), shapes, strict=True)
        ]

    def needs(self) -> tuple[bool, ...]:
        """The bottoms whose gradient its Backward in Caffe writes; the others are detached.

        Some types write it without looking at propagate_down, and some share its memory. Whether
        it goes on from there is for the layer before it to say.
        """
        site = self.place.site
        return site.bottom_need if site.backward else (False,) * len(site.bottoms)

    @abstractmethod
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        """The tops.

        Args:
            bottoms: One each, detached where no gradient is wanted.
            blobs: The parameters, in the shapes of this layer, detached where they are frozen.
        """


class Plain(TorchLayer):
    """A layer of one bottom and one top, without parameters."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (self.function(bottoms[0]),)

    @abstractmethod
    def function(self, x: Tensor) -> Tensor:
        """The top."""


def weights_and_bias(message: Any) -> list[caffe_pb2.FillerParameter]:
    """The fillers of a message with a weight_filler and, where bias_term is on, a bias_filler."""
    fillers = [message.weight_filler]
    if message.bias_term:
        fillers.append(message.bias_filler)
    return fillers


def channels_last(x: Tensor) -> Tensor:
    """The same numbers (N, C, H, W), in memory with the channels of each pixel side by side.

    On a CPU torch's convolutions and poolings are faster like that, and give such tensors
    themselves; others come back as they are.
    """
    if x.dim() != 4 or not (x.device.type == "cpu" and x.dtype == torch.float32 and _HAS_ONEDNN):
        return x
    if x.shape[1] == 1 and x.is_contiguous():  # torch would take it for what it is already
        return x.view(x.shape[0], x.shape[2], x.shape[3], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class _Imitation(torch.autograd.Function):
    """A top whose gradient is calculated as Caffe does it."""

    @staticmethod
    def forward(ctx: Any, top: Tensor, backward: Backward, *bottoms: Tensor) -> Tensor:
        ctx.backward_of_caffe = backward
        return top.detach().view_as(top)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.backward_of_caffe(gradients[0]))


Backward = Callable[[Tensor], Sequence["Tensor | None"]]


def imitate(top: Tensor, backward: Backward, *bottoms: Tensor) -> Tensor:
    """A top with a gradient of its own, for what isn't the derivative in Caffe.

    Args:
        top: Its values.
        backward: From the gradient of the top to those of the bottoms.
        bottoms: What has an influence on it.
    """
    if not torch.is_grad_enabled():
        return top
    apply: Any = _Imitation.apply
    made: Tensor = apply(top, backward, *bottoms)
    return made
