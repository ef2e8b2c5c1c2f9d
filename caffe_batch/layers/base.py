"""The plain data that layer rules take and return.

A rule answers, for one layer of one net: which shapes leave it (:meth:`Rule.shape`), which
parameters it owns (:meth:`Rule.parameters`), and which memory it touches (:meth:`Rule.memory`).
Rules are pure: they read a :class:`Site` and return tuples. They never see protobuf or files.

Shapes are tuples in Caffe's order, batch axis first. Counts are elements, not bytes.

Naming of memory ("sides"): Caffe's blobs have a ``data`` and a ``diff`` array, each allocated the
first time it is touched on a device. A side is written ``"bottom0.data"``, ``"top1.diff"``,
``"param0.data"``, or ``"prob_.data"`` for a buffer that the layer itself owns (under Caffe's own
member name).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from caffe_batch.errors import ShapeError

Shape = tuple[int, ...]
Phase = Literal["TRAIN", "TEST"]
Mode = Literal["gpu", "cpu"]

#: Caffe refuses a blob of more elements than a C int holds (blob.cpp, Blob::Reshape).
MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Param:
    """What a prototxt says of one parameter blob of a layer (Caffe's ParamSpec)."""

    name: str = ""
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a net as plain data.

    Attributes:
        bottoms, tops: Blob names, in order.
        settings: An instance of the rule's ``settings`` class; None where the type has none.
        params: The ParamSpecs given, at most one a parameter blob.
        loss_weights: As written, empty or one a top.
        propagate_down: As written, empty or one a bottom.
        records: Data layers only: what one record of the source looks like, one shape a top,
            without the batch axis; None if unknown.
    """

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    settings: Any = None
    params: tuple[Param, ...] = ()
    loss_weights: tuple[float, ...] = ()
    propagate_down: tuple[bool, ...] = ()
    records: tuple[Shape, ...] | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One layer where it stands: what its rule may know.

    Attributes:
        bottoms: Shapes that come in.
        tops: How many tops it has (automatic ones counted).
        in_place: Whether top i is the very blob of bottom i; one a top.
        backward: Whether the layer's Backward runs in training.
        bottom_need: Which bottoms get a gradient; one a bottom.
        param_need: Which parameters get a gradient (lr_mult is not 0); one a parameter.
    """

    phase: Phase
    settings: Any
    bottoms: tuple[Shape, ...]
    tops: int
    in_place: tuple[bool, ...] = ()
    records: tuple[Shape, ...] | None = None
    backward: bool = False
    bottom_need: tuple[bool, ...] = ()
    param_need: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Buffer:
    """A blob that the layer itself owns, under Caffe's member name.

    Attributes:
        count: Elements of one side.
        itemsize: Bytes of an element (4: Caffe's float and int).
    """

    name: str
    count: int
    itemsize: int = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Which sides a layer touches on the device it runs on, and when.

    In GPU mode a side counts when the *device* copy is touched (``gpu_data``, ``mutable_gpu_diff``,
    ...), in CPU mode when the host copy is. Touching twice costs nothing more.

    Attributes:
        buffers: The blobs it owns; only touched sides cost memory.
        build: Sides touched by SetUp and the first Reshape (prefetch buffers, for instance).
        forward: Sides touched by every Forward.
        backward: Sides touched by Backward (given Site.backward, bottom_need, param_need).
        shares: ``(side, other)``: the memory of ``side`` is the memory of ``other``.
        transient: Elements allocated within a pass and freed again.
    """

    buffers: tuple[Buffer, ...] = ()
    build: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    shares: tuple[tuple[str, str], ...] = ()
    transient: int = 0


class Rule:
    """What one layer type does. Subclasses override what differs from the plain case.

    Class attributes:
        type: Caffe's own type name, as written in a prototxt.
        message: The LayerParameter field with its settings (``"pooling_param"``), or ``""``.
        settings: The frozen dataclass of the settings read; its field names are those of the
            message, its defaults those of caffe.proto. ``setting(..., message=...)`` reads a field
            from another message.
        bottoms, tops: (least, most) number of each; None for no upper limit.
        automatic_top: A loss without a named top gets an anonymous one.
        is_loss: The first top has loss weight 1 unless the prototxt says otherwise.
        forced_bottoms: Whether ``force_backward`` may ask for the gradient of each bottom
            (Layer::AllowForceBackward); bottoms past the end: True.
    """

    type: str = ""
    message: str = ""
    settings: type | None = None
    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    automatic_top: bool = False
    is_loss: bool = False
    forced_bottoms: tuple[bool, ...] = ()

    def shape(self, site: Site) -> tuple[Shape, ...]:
        """Shapes of the tops, one a top.

        Raises:
            ShapeError: Where Caffe's own check would abort, with its reason in plain words.
        """
        raise NotImplementedError

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        """Shapes of the learnable blobs, in Caffe's order (weights, then bias)."""
        return ()

    def memory(self, site: Site, mode: Mode) -> Memory:
        """Which memory the layer touches."""
        raise NotImplementedError

    def inner(self, site: Site) -> tuple[Layer, ...]:
        """The layers of the net that a recurrent layer unrolls inside itself; else empty."""
        return ()


def setting(default: Any, *, message: str) -> Any:
    """A settings field that comes from another message than the rule's own."""
    return field(default=default, metadata={"message": message})


def count(shape: Iterable[int]) -> int:
    """Number of elements; 1 for a scalar (no axes)."""
    return prod(shape)


def axis_index(axis: int, shape: Sequence[int], *, what: str = "axis") -> int:
    """``axis`` as a non-negative index; negative ones count from the end.

    Raises:
        ShapeError: The axis is outside the shape (Blob::CanonicalAxisIndex).
    """
    axes = len(shape)
    if not -axes <= axis < axes:
        raise ShapeError(f"{what} {axis} is outside a blob of {axes} axes {tuple(shape)}")
    return axis % axes
