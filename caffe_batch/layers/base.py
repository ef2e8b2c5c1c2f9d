"""The plain data that layer rules take and return.

A rule answers, for one layer of one net: which shapes leave it (:meth:`Rule.shape`), which
parameters it owns (:meth:`Rule.parameters`), which memory it touches (:meth:`Rule.memory`), and how
it couples the samples of a batch (:meth:`Rule.coupling`).
Rules are pure: they read a :class:`Site` and return tuples. They never see protobuf or files.

Shapes are tuples in Caffe's order, batch axis first. Counts are in elements, not bytes.

:mod:`caffe_batch.layers.sides` gives memory its names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any, Literal, NamedTuple

from caffe_batch.errors import ShapeError, did_you_mean
from caffe_batch.layers.facts import (
    ANY_NUMBERS,
    Arithmetic,
    Copies,
    NumberKind,
    Numbers,
    ReadsTop,
    Source,
)
from caffe_batch.layers.given import Given
from caffe_batch.layers.sides import Side, bottom, own

Shape = tuple[int, ...]
Phase = Literal["TRAIN", "TEST"]
Mode = Literal["gpu", "cpu"]
Settings = type[Any]  # a class of settings; inside Rule, ``type`` is the name of the layer type

#: Caffe refuses a blob of more elements than a C int holds (blob.cpp, Blob::Reshape).
MAX_COUNT = 2**31 - 1

#: How a parameter can be filled (filler.hpp, GetFiller).
FILLERS = ("constant", "gaussian", "positive_unitball", "uniform", "xavier", "msra", "bilinear")


@dataclass(frozen=True, slots=True)
class Param:
    """What a prototxt says about one parameter blob of a layer (Caffe's ParamSpec).

    Attributes:
        name: Layers that give the same name share the blob; empty for none.
        lr_mult, decay_mult: None where the prototxt doesn't set them; they then count as 1.
        permissive: Whether the shapes of a shared blob may differ (counts may not).
    """

    name: str = ""
    lr_mult: float | None = None
    decay_mult: float | None = None
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a net as plain data.

    Attributes:
        bottoms, tops: Blob names, in order.
        settings: An instance of the rule's ``settings`` class; None where the type has none.
        params: The ParamSpecs given, at most one per parameter blob.
        loss_weights: As written, empty or one per top.
        propagate_down: As written, empty or one per bottom.
        rule: What its type does; None for the layers that Caffe itself inserts (Splits, the net
            inside a recurrent layer), whose types are Caffe's own.
        given: The shape that the user gave for each top, or None; empty if for none.
        skipped: Its fields that Caffe 1.0 doesn't have and that may change shapes or memory.
        records: Data layers only: the shapes of one record of the source, one per top, without
            the batch axis; None if unknown.
        file_rows: HDF5Data only: rows of the largest file on its list; None if unknown.
        unequal_records: Data layers only: whether the records differ in size; ``records`` is then
            the largest one.
        unread: Data layers only: why the source wasn't read, if it could have been.
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
    file_rows: int | None = None
    unequal_records: bool = False
    unread: str = ""
    given: tuple[Given | None, ...] = ()
    skipped: tuple[str, ...] = ()
    rule: Rule | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Site:
    """One layer at its place in a net: what its rule may know.

    Attributes:
        bottoms: Shapes of the bottoms.
        tops: How many tops it has (including automatic ones).
        in_place: Whether top i is the same blob as bottom i; one per top.
        loss_weights: As written, empty or one per top; without the 1 that losses get by default.
        backward: Whether the layer's Backward runs in training.
        bottom_need: Which bottoms get a gradient; one per bottom.
        param_need: Which parameters get a gradient (lr_mult is not 0); one per parameter.
    """

    phase: Phase
    settings: Any
    bottoms: tuple[Shape, ...]
    tops: int
    in_place: tuple[bool, ...] = ()
    records: tuple[Shape, ...] | None = None
    file_rows: int | None = None
    loss_weights: tuple[float, ...] = ()
    unequal_records: bool = False
    unread: str = ""
    backward: bool = False
    bottom_need: tuple[bool, ...] = ()
    param_need: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Buffer:
    """A blob that the layer itself owns, under Caffe's member name.

    Attributes:
        count: Elements of one side.
        itemsize: Bytes of an element (4: Caffe's float and int).
        copies: How many identical ones there are, each allocated separately.
        prefetch: Whether it holds batches that a data layer reads ahead.
        either: The two counts of which ``count`` is the larger one, if that is how it is chosen.
    """

    name: str
    count: int
    itemsize: int = 4
    copies: int = 1
    prefetch: bool = False
    either: tuple[int, int] | None = None

    @property
    def data(self) -> Side:
        """The side that holds its values."""
        return own(self.name).data

    @property
    def diff(self) -> Side:
        """The side that holds its gradient."""
        return own(self.name).diff


@dataclass(frozen=True, slots=True)
class Memory:
    """Which sides a layer touches on the device it runs on, and when.

    In GPU mode a side counts when the *device* copy is touched (``gpu_data``, ``mutable_gpu_diff``,
    ...), in CPU mode when the host copy is. Touching it twice costs nothing more.

    Attributes:
        buffers: The blobs it owns; only touched sides cost memory.
        build: Sides touched by SetUp and the first Reshape (prefetch buffers, for instance).
        forward: Sides touched by every Forward.
        backward: Sides touched by Backward (given Site.backward, bottom_need, param_need).
        shares: ``(side, other)``: the memory of ``side`` is the memory of ``other``, from every
            Reshape or Forward on.
        backward_shares: The same, from every Backward on. The pointer is set each time, so a later
            share replaces an earlier one: X -Reshape-> Y -Flatten-> Z shares the diff of Y with X
            going forward and with Z going back, and ends with two memories (and no gradient for X).
        transient: Elements allocated within a pass and freed again.
        at_most: How many elements of all these may turn out not to be allocated, where the sizes
            depend on the data and the largest possible ones are given.
        partial: Whether the layer takes more than is known; a total that includes it is a lower
            bound.
        workspace: Bytes that a library's algorithms take from SetUp on, in one request: the least
            and the most it can be.
    """

    buffers: tuple[Buffer, ...] = ()
    build: tuple[Side, ...] = ()
    forward: tuple[Side, ...] = ()
    backward: tuple[Side, ...] = ()
    shares: tuple[tuple[Side, Side], ...] = ()
    backward_shares: tuple[tuple[Side, Side], ...] = ()
    transient: int = 0
    at_most: int = 0
    partial: bool = False
    workspace: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Inner:
    """The net that a recurrent layer unrolls over time and runs inside itself.

    It is a net of its own: in-place blobs, Split insertion, shapes, need-backward and the memory of
    its layers follow the rules of any net. The differences:

    - Its phase is TEST whatever the outer one is (recurrent_layer.cpp gives the net no state), yet
      its Backward runs whenever the outer layer's Backward runs. So need-backward is computed as
      for a TRAIN net, without ``force_backward``; the outer net's propagate_down, lr_mult and
      force_backward don't reach it: all inner parameters get a gradient.
    - The last ``idle`` layers (they stay last after Split insertion) are pseudo-losses. They are
      built (loss weights, build sides) and make the blobs before them need a gradient, but their
      Forward and Backward never run. Their tops' loss-weight diffs are set on the host at build;
      the device never sees their data or diff.
    - Its blobs are tied to the outer layer's by ``Memory.shares`` and touched by the outer layer
      itself in ``Memory.build`` and ``Memory.forward``, as ``inner(BLOB)``. BLOB is a name in
      ``layers``, so for a blob that feeds a Split it is the Split's bottom.

    Attributes:
        layers: As Caffe's code adds them, before Split insertion.
        parameters: Names of the inner parameters, one per parameter of the outer layer, in order.
            Every inner parameter carries one of these names; the first layer with a name owns it
            and its blob is the outer layer's blob. The inner copies are filled on the host before
            they are shared: a transient of construction, in host memory.
        idle: How many layers at the end never run.
    """

    layers: tuple[Layer, ...]
    parameters: tuple[str, ...]
    idle: int


@dataclass(frozen=True, slots=True)
class Labels:
    """A bottom whose values a layer reads as class indices or as probabilities.

    No release build of Caffe checks them: a value out of range makes it read memory beside the
    array or, if ``writes`` is set, write there.

    Attributes:
        bottom: Which bottom.
        classes: Whole numbers from 0 to ``classes - 1`` are accepted; None for probabilities,
            which go from 0 to 1.
        ignore: A value that the layer skips, or None.
        writes: Whether a value out of range makes this layer, in this net, write to other memory.
    """

    bottom: int
    classes: int | None
    ignore: int | None = None
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Coupling:
    """How a layer couples the samples of a batch in training.

    The plain case: it treats each sample separately, whatever axis the samples lie on, and draws
    nothing at random.

    Attributes:
        joint: Axes of bottom 0 whose positions are processed together, or each in its own way.
            Samples that lie on such an axis influence each other.
        along: The axis along which blobs are joined or cut apart (Concat, Slice, Tile).
        relabels: Whether the same elements only get another shape (Reshape, Flatten).
        constant: Whether its tops depend on the shapes of its bottoms only, not on their values.
        divisor: A loss, score or mean sums over the elements and divides by this; None for layers
            that don't, and 1 for a plain sum.
        by_labels: Tops whose divisor is really a number that the data decides: the labels that
            aren't ignored, those of one class, or the boxes that match.
        linear: Whether a multiple of the bottoms gives the same multiple of the top.
        affine: Whether the mean of bottoms gives the mean of the tops.
        draws: Whether it draws random numbers in each pass.
        shuffles: Whether it reads its records in an order that is drawn afresh in each epoch.
        statistics: Whether it normalises with the statistics of the batch.
        decay: What remains of its moving averages after a pass; None if it has none.
        carries_state: Whether each pass continues where the previous one ended.
        selects: Whether it picks samples by their position in the batch.
        overwrites: Parameters whose gradient each pass overwrites instead of adding to it.
        rereads: Whether its Backward, working in place, reads the incoming gradient again after it
            has written the outgoing one, which is then no longer in proportion to it.
        scribbles: Bottoms in whose gradient its Forward leaves numbers of its own, which its
            Backward replaces.
        lasting: Tops that are filled once and keep their values in all passes.
        paced: The field that says how fast something in it changes with each Forward, and its
            value; None if nothing does.
        quota: Samples of one kind that each batch must have (WindowData's foreground).
    """

    joint: tuple[int, ...] = ()
    along: int | None = None
    relabels: bool = False
    constant: bool = False
    divisor: int | None = None
    by_labels: tuple[int, ...] = ()
    linear: bool = False
    affine: bool = False
    draws: bool = False
    shuffles: bool = False
    statistics: bool = False
    decay: float | None = None
    carries_state: bool = False
    selects: bool = False
    overwrites: tuple[int, ...] = ()
    rereads: bool = False
    scribbles: tuple[int, ...] = ()
    lasting: tuple[int, ...] = ()
    quota: int | None = None
    paced: tuple[str, float] | None = None


class ChannelChange(NamedTuple):
    """``factor * x + shift`` for each channel, as arrays in double precision."""

    factor: Any
    shift: Any


class Rule(ABC):
    """What one layer type does. Subclasses override what differs from the plain case.

    Class attributes:
        type: Caffe's own type name, as written in a prototxt.
        message: The LayerParameter field with its settings (``"pooling_param"``), or ``""``.
        settings: The frozen dataclass of the settings read; its field names are those of the
            message, its defaults those of caffe.proto. ``setting(..., message=...)`` reads a field
            from another message.
        bottoms, tops: (least, most) number of each; None for no upper limit.
        automatic_top: Whether Caffe gives it an anonymous top if it has no named one (losses).
        is_loss: Whether the first top has loss weight 1 unless the prototxt says otherwise.
        is_score: Whether it only says how well predictions agree with labels (Accuracy).
        scored_by: Of a loss: the type of the layer that makes the probabilities it computes inside;
            empty if it takes its predictions as they are.
        forced_bottoms: For each bottom, whether ``force_backward`` may ask for its gradient
            (Layer::AllowForceBackward); True for bottoms past the end.
        fixed_parameters: Whether Caffe refuses an lr_mult other than 0 (BatchNorm's statistics).
        copies: Whether its tops hold only values of its bottoms, and in which order.
        works_in_place: Whether Caffe's numbers are defined where its top is its bottom.
        reads_top: When its Backward reads its own top.
        reads_signs: Whether the signs are all that it needs of it.
        keeps_signs: Whether its top, where it isn't 0, has the sign of the bottom.
        other_messages: Messages of the layer that Caffe reads beside ``message`` and those that
            ``settings`` names.
        fills_parameters: Whether SetUp gives its parameters values, and so memory on the host.

        has_batch_size: Whether the field ``batch_size`` of its message is the net's batch size.
        declares_shapes: Whether its settings give the shapes of its tops, including the batch size.
        source: Where it reads its records; None if it reads none.
        fed_by_program: Whether a program gives it its data.
        record_order: For the audit: what the passes of an update on one GPU read, in a sentence;
            empty for types that don't read or get records in sequence.
        crops: Whether ``transform_param.crop_size`` is the size of its images.
        resizes_windows: Whether it resizes to that size instead of cropping.
        image_size: The fields of its message that are the height and width of its images.
        recurrent: Whether its bottoms run over time: axis 0 is the time and axis 1 the batch, and
            bottom 1, of shape (T, N), marks where sequences begin.
        copied_axis: The number in its shape that means "as in the bottom" and that could replace a
            batch size written out there (Reshape's 0); None for types without one.
        moving_average: The field of its message that is the decay of moving averages.
        known_statistics: The field that makes it normalise with these; empty if there is none.
        arithmetic: What most of its work is.
        writes_files: Whether it writes files of its own.
        data_decides_size: Whether the size of its tops depends on the numbers in its bottoms.
        undrawn: A field of its message, and the value with which the layer draws nothing at random.
        draws_on_cpu: Whether Caffe's CPU code can make its draws.
        fills_tops: The field of its message with the fillers of its tops.
        fans_out: Whether its tops are its bottom under other names. Caffe inserts such a layer
            where several others read a blob.
        may_share_top: Whether NVCaffe may do without the memory of a top and its gradient.
        unknown: Whether it stands for a type without a rule.
        opaque: Whether nobody knows what it does with the samples of a batch, whatever
            :meth:`coupling` says.
        assumes_batch: Whether its settings are :class:`caffe_batch.layers.unknown.UnknownSettings`:
            the shapes that the user gave, and the batch that it is taken to make.
        open_params: Whether ``param`` blocks beyond its parameters are accepted: how many such a
            layer really has isn't known.
        usual: What it is taken to make where neither its bottoms nor its settings decide the
            shapes of its tops, and where that is from; None where they do.
        counted: What a divisor of ``Coupling.by_labels`` counts, for the audit.
        forks: For types that Caffe 1.0 lacks, or that a fork changes: the forks that have it so, by
            the names of ``--fork``; empty for those of other forks.
        follows: For the same: the repository and the files of it that the rule follows.
        origin: Where the rule comes from, for messages.
    """

    type: str = ""
    message: str = ""
    settings: Settings | None = None
    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    automatic_top: bool = False
    is_loss: bool = False
    is_score: bool = False
    scored_by: str = ""
    forced_bottoms: tuple[bool, ...] = ()
    fixed_parameters: bool = False
    fills_parameters: bool = True
    copies: Copies = Copies.NOTHING
    works_in_place: bool = False
    reads_top: ReadsTop = ReadsTop.NEVER
    reads_signs: bool = False
    keeps_signs: bool = False
    other_messages: tuple[str, ...] = ()
    has_batch_size: bool = False
    declares_shapes: bool = False
    source: Source | None = None
    fed_by_program: bool = False
    record_order: str = ""
    crops: bool = False
    resizes_windows: bool = False
    image_size: tuple[str, str] | None = None
    recurrent: bool = False
    copied_axis: int | None = None
    moving_average: str = ""
    known_statistics: str = ""

    arithmetic: Arithmetic = Arithmetic.OTHER
    writes_files: bool = False
    data_decides_size: bool = False
    undrawn: tuple[str, float | str] | None = None
    draws_on_cpu: bool = True
    fills_tops: str = ""
    fans_out: bool = False
    may_share_top: bool = False
    unknown: bool = False
    opaque: bool = False
    assumes_batch: bool = False
    open_params: bool = False
    usual: tuple[str, str] | None = None
    counted: str = "labels that aren't ignored"
    forks: tuple[str, ...] = ()
    follows: str = ""
    origin: str = "caffe-batch's own"

    @property
    def makes_data(self) -> bool:
        """Whether samples come from layers of this type."""
        return self.has_batch_size or self.declares_shapes

    @abstractmethod
    def shape(self, site: Site) -> tuple[Shape, ...]:
        """Shapes of the tops, one per top.

        Raises:
            ShapeError: Caffe's own check would abort; gives the reason in plain words.
        """

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        """Shapes of the learnable blobs, in Caffe's order (weights, then bias)."""
        return ()

    @abstractmethod
    def memory(self, site: Site, mode: Mode) -> Memory:
        """Which memory the layer touches."""

    def has_empty_window(self, site: Site) -> bool:
        """Whether part of its top is calculated from nothing, so that its values mean nothing."""
        return False

    def needs_shapes(self, bottoms: int) -> bool:
        """Whether a layer with this many bottoms has the shapes that the user gives."""
        return False

    def given_shapes(self, settings: Any, tops: int) -> tuple[Given, ...]:
        """The shapes of a layer without bottoms that ``assumes_batch``, unless the user says more.

        Args:
            settings: What is known about the layer; its ``given`` is what the user said.
            tops: How many tops it has.

        Returns:
            Those of the first tops, in order; empty for none.
        """
        return ()

    def batch_path(self, settings: Any) -> tuple[str | int, ...] | None:
        """Where in the LayerParameter the batch size is written, if it ``has_batch_size``.

        None where the file doesn't say it, so that it can't be changed there.
        """
        return (self.message, "batch_size")

    def batch_value(self, settings: Any, size: int) -> Any:
        """What is written there for a batch size."""
        return size

    def any_batch(self, settings: Any) -> bool:
        """Whether the layer takes any batch size; False if its settings may contain one."""
        return True

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        """The layer's GPU memory in a build with cuDNN; the same for most types.

        Raises:
            ShapeError: Such a build refuses the layer.
        """
        return memory

    def coupling(self, site: Site) -> Coupling:
        """How it couples samples; unless overridden, it works on all axes but the first at once."""
        return Coupling(joint=all_but_first(site))

    def labels(self, site: Site) -> Labels | None:
        """The bottom that it reads labels from; None for most types."""
        return None

    def chance_loss(self, site: Site) -> float | None:
        """The loss of guessing all classes alike; None for all types but classifiers' losses."""
        return None

    def channel_change(self, settings: Any, blobs: Sequence[Any]) -> ChannelChange | None:
        """What it does to each channel (axis 1) in a TEST net, if it does nothing else.

        Args:
            settings: The layer's.
            blobs: Its parameters, as arrays in double precision.
        """
        return None

    def with_change(
        self, settings: Any, blobs: Sequence[Any], change: ChannelChange
    ) -> list[Any] | None:
        """Parameters with which its top is as if a change of each channel followed it.

        Args:
            settings: The layer's.
            blobs: Its parameters, as arrays in double precision.
            change: What follows it.

        Returns:
            Weights and a bias, whether or not there was one; None if it can't take the change in.
        """
        return None

    def messages(self) -> frozenset[str]:
        """The messages (``data_param``, ...) that Caffe reads from a layer of this type.

        It silently skips all others.
        """
        settings = fields(self.settings) if self.settings is not None else ()
        named = {each.metadata.get("message", self.message) or each.name for each in settings}
        return frozenset(name for name in (*named, self.message, *self.other_messages) if name)

    def inner(self, site: Site) -> Inner | None:
        """The net that a recurrent layer unrolls inside itself; None for all other types."""
        return None

    def numbers(self, site: Site, bottom: int) -> Numbers:
        """Which numbers a bottom may hold without Caffe aborting or reading past its memory."""
        labels = self.labels(site)
        if labels is None or bottom != labels.bottom:
            return ANY_NUMBERS
        return Numbers(NumberKind.INDEX, labels.classes or 2, labels.ignore)

    def literal_shapes(self, settings: Any) -> tuple[Shape, ...]:
        """The shapes written out in its settings that may contain the net's batch size."""
        return ()

    def with_literal_shapes(self, settings: Any, shapes: tuple[Shape, ...]) -> Any:
        """The settings with other literal shapes, which differ only in the batch size."""
        return settings

    def literal_path(self, settings: Any, shape: int, axis: int) -> tuple[str | int, ...]:
        """Where in the LayerParameter one size is written: that of an axis of a literal shape."""
        raise NotImplementedError(f"{self.type} has no literal shapes")

    def sizes_on_first_axis(self, settings: Any) -> tuple[tuple[str, int], ...]:
        """What its settings say about axis 0 regardless of the batch size: field and number."""
        return ()

    def draws(self, settings: Any, phase: Phase) -> bool:
        """Whether each pass draws random numbers."""
        return False

    def keeps_state(self, settings: Any) -> bool:
        """Whether each pass continues where the previous one ended."""
        return False

    def state_bottoms(self, settings: Any, bottoms: int) -> range:
        """Which of this many bottoms are initial hidden states, of shape (1, N, ...)."""
        return range(0)


def setting(default: Any, *, message: str) -> Any:
    """A settings field that comes from a message other than the rule's own."""
    return field(default=default, metadata={"message": message})


def count(shape: Iterable[int]) -> int:
    """Number of elements; 1 for a scalar (no axes)."""
    return prod(shape)


def all_but_first(site: Site) -> tuple[int, ...]:
    """The axes of bottom 0 after the first one; none for a layer without bottoms."""
    return tuple(range(1, len(site.bottoms[0]))) if site.bottoms else ()


def axes_from(axis: int, shape: Shape) -> tuple[int, ...]:
    """The axes of a shape from the given one on."""
    return tuple(range(axis_index(axis, shape), len(shape)))


def needed_diffs(site: Site) -> tuple[Side, ...]:
    """The diffs of the bottoms that get a gradient."""
    return tuple([bottom(i).diff for i, need in enumerate(site.bottom_need) if need])


def without_buffers(memory: Memory, *names: str) -> Memory:
    """The same memory, except that these buffers are never touched."""

    def kept(touched: tuple[Side, ...]) -> tuple[Side, ...]:
        return tuple([side for side in touched if side.owner != "own" or side.name not in names])

    return replace(
        memory,
        buffers=tuple([buffer for buffer in memory.buffers if buffer.name not in names]),
        build=kept(memory.build),
        forward=kept(memory.forward),
        backward=kept(memory.backward),
    )


def refuse_backward(site: Site, layer_type: str) -> None:
    """For layers without a Backward: Caffe builds the net, but training it aborts.

    Raises:
        ShapeError: The layer lies on the path from the loss to something that learns.
    """
    if site.phase == "TRAIN" and site.backward:
        raise ShapeError(
            f"{layer_type} has no gradient, but the loss needs one to pass through it",
            hint="Take it off the path to the loss, or give its reader propagate_down: false.",
        )


def refuse_gradient(site: Site, bottom: int, what: str) -> None:
    """For bottoms that a layer computes no gradient for: Caffe builds the net, training aborts.

    Raises:
        ShapeError: Training would ask the layer for that gradient.
    """
    if site.phase == "TRAIN" and site.backward and site.bottom_need[bottom]:
        raise ShapeError(
            f"there is no gradient for {what} (bottom {bottom}), but training asks for it",
            hint="Write propagate_down: false for that bottom (one value per bottom).",
        )


def four_axes(shape: Shape) -> Shape:
    """A shape of up to four axes as (N, C, H, W), padded with ones.

    Raises:
        ShapeError: There are more than four (Blob::LegacyShape).
    """
    if len(shape) > 4:
        raise ShapeError(f"the input {shape} has {len(shape)} axes; this layer takes at most 4")
    return (*shape, *(1,) * (4 - len(shape)))


def not_empty(shape: Shape) -> Shape:
    """The shape of a blob whose memory is touched or shared while the net is built.

    Raises:
        ShapeError: It has no elements: Caffe allocates nothing and aborts at the first touch.
    """
    if count(shape) == 0:
        raise ShapeError(f"a blob of shape {shape} has no elements")
    return shape


def filled(shape: Shape, filler: str = "constant") -> Shape:
    """The shape of a blob that a filler fills, if the filler accepts it.

    Raises:
        ShapeError: The blob is empty, or lacks the axes that this filler needs (filler.hpp).
    """
    if filler not in FILLERS:
        hint = did_you_mean(filler, FILLERS) or f"Caffe has {', '.join(FILLERS)}."
        raise ShapeError(f"there is no filler {filler!r}", hint=hint)
    not_empty(shape)
    if filler == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
        raise ShapeError(f"the bilinear filler needs a square kernel and 4 axes, not {shape}")
    if filler in ("positive_unitball", "xavier", "msra") and not shape:
        raise ShapeError(f"the {filler} filler needs an axis; the blob is a scalar")
    return shape


def axis_index(axis: int, shape: Sequence[int], *, what: str = "axis") -> int:
    """``axis`` as a non-negative index; negative ones count from the end.

    Raises:
        ShapeError: The axis is outside the shape (Blob::CanonicalAxisIndex).
    """
    axes = len(shape)
    if not -axes <= axis < axes:
        raise ShapeError(f"{what} {axis} is outside a blob of {axes} axes {tuple(shape)}")
    return axis % axes
