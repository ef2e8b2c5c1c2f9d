"""From layers to a net: blobs, shapes, parameters, and what needs a gradient.

Source: net.cpp (Init, AppendTop, AppendBottom, AppendParam). Everything here is plain data; what
depends on a layer's type comes from its rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from caffe_batch.errors import (
    InputShapeError,
    NetError,
    Option,
    ShapeError,
)
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import MAX_COUNT, Layer, Param, Phase, Rule, Shape, Site, count
from caffe_batch.layers.given import WholeShape, spelled
from caffe_batch.net.splits import insert_splits

#: Caffe refuses blobs with more axes (blob.hpp, kMaxBlobAxes).
MAX_AXES = 32
#: The name that Caffe gives the top of a loss without a named one.
AUTOMATIC = "(automatic)"

_NO_SPEC = Param()


@dataclass(frozen=True, slots=True)
class Blob:
    """An activation: its name and shape. The bottom and top of an in-place layer are one blob."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Parameter:
    """A learnable blob, owned by the first layer that names it.

    Attributes:
        layer: Name of the owning layer.
        index: Which of that layer's parameters (0: weights, 1: bias, ...).
        shape: Its shape in the owning layer.
        lr_mult, decay_mult: From the first layer that sets them, otherwise None (which means 1).
    """

    layer: str
    index: int
    name: str
    shape: Shape
    lr_mult: float | None
    decay_mult: float | None


@dataclass(frozen=True, slots=True)
class Node:
    """One layer in its net.

    Attributes:
        layer: The plain layer (blob names after Split insertion).
        rule: What its type does.
        site: The shapes around it and the gradients it needs, as its rule sees them.
        bottoms, tops: Indices into ``Net.blobs``.
        params: Indices into ``Net.params`` (shared ones point to the owner's).
        param_shapes: Those in this layer (with PERMISSIVE sharing the owner's may differ).
        loss: Loss weight of each top, including the defaults of loss layers.
    """

    layer: Layer
    rule: Rule
    site: Site
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    params: tuple[int, ...]
    param_shapes: tuple[Shape, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Net:
    """A net as Caffe would build it: layers in order, blobs and parameters counted once."""

    name: str
    phase: Phase
    nodes: tuple[Node, ...]
    blobs: tuple[Blob, ...]
    params: tuple[Parameter, ...]
    force_backward: bool = False

    @cached_property
    def blob_shapes(self) -> dict[str, Shape]:
        """Shape by blob name, including Split copies, as in pycaffe's ``net.blobs``."""
        return {blob.name: blob.shape for blob in self.blobs}

    @cached_property
    def param_shapes(self) -> dict[str, tuple[Shape, ...]]:
        """Parameter shapes by layer name, as in pycaffe's ``net.params``."""
        return {node.layer.name: node.param_shapes for node in self.nodes if node.param_shapes}

    @cached_property
    def learned(self) -> tuple[Parameter, ...]:
        """The parameters that the solver changes: not BatchNorm's averages."""
        fixed = {node.layer.name for node in self.nodes if node.rule.fixed_parameters}
        return tuple(each for each in self.params if each.layer not in fixed)

    @property
    def log_memory_required_for_data(self) -> int:
        """The last "Memory required for data" of Caffe's log, in bytes.

        It counts every top of every layer: in-place tops again, and Split and Reshape tops although
        their memory is shared. It leaves out gradients, parameters and buffers, so it is a check
        of the shapes but no prediction of the memory.
        """
        return 4 * sum(count(self.blobs[top].shape) for node in self.nodes for top in node.tops)

    @property
    def unknown_layers(self) -> tuple[str, ...]:
        """Names of layers of which something isn't known.

        Those whose type has no rule (only with ``allow_unknown``), those with more ``param`` blocks
        than the rule that they are treated by has parameters, and those with skipped fields.
        """
        return tuple(
            node.layer.name
            for node in self.nodes
            if node.rule.unknown or node.layer.skipped or len(node.layer.params) > len(node.params)
        )


def rule_of(layer: Layer) -> Rule:
    """What the layer's type does; layers that Caffe itself inserts are of its own types."""
    return layer.rule or BUILT_IN[layer.type]


def build(
    layers: Sequence[Layer],
    *,
    phase: Phase,
    name: str = "",
    force_backward: bool = False,
    has_splits: bool = False,
) -> Net:
    """Builds the net that Caffe would build from these (already filtered) layers.

    Args:
        layers: The layers, in order.
        phase: TRAIN or TEST.
        name: The name of the net.
        force_backward: As written in the net.
        has_splits: Whether :func:`insert_splits` has already been applied to the layers.

    Raises:
        NetError: A blob is unknown or produced twice; a wrong number of bottoms, tops or params.
        ShapeError: One of Caffe's layers refuses the shapes.
    """
    builder = _Builder(phase)
    for layer in layers if has_splits else insert_splits(layers):
        builder.add(layer)
    nodes = _mark_backward(builder.nodes, builder.blobs, builder.blob_need, force_backward)
    return Net(name, phase, tuple(nodes), tuple(builder.blobs), tuple(builder.params),
               force_backward)  # fmt: skip


class _Builder:
    """Grows the lists of nodes, blobs and parameters layer by layer, as Net::Init does."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.nodes: list[Node] = []
        self.blobs: list[Blob] = []
        self.blob_need: list[bool] = []
        self.params: list[Parameter] = []
        self._blob_index: dict[str, int] = {}
        # Blobs whose shape isn't known: the layer without a rule that makes each, and its top.
        self._shapeless: dict[int, tuple[str, str]] = {}
        self._param_index: dict[str, int] = {}
        # What identical layers in identical places give (deep nets repeat themselves).
        self._applied: dict[tuple[Rule, Any], tuple[tuple[Shape, ...], tuple[Shape, ...]]] = {}

    def add(self, layer: Layer) -> None:
        rule = rule_of(layer)
        if layer.propagate_down and len(layer.propagate_down) != len(layer.bottoms):
            raise NetError(
                f"propagate_down has {len(layer.propagate_down)} values for "
                f"{len(layer.bottoms)} bottoms",
                layer=layer.name,
                hint="Give one value per bottom, or none at all.",
            )
        bottoms = tuple(self._blob_index[blob] for blob in layer.bottoms)
        names = list(layer.tops)
        if rule.automatic_top:
            names += [AUTOMATIC] * (rule.tops[0] - len(names))
        _check_number(layer, "bottom", len(bottoms), rule.bottoms)
        _check_number(layer, "top", len(names), rule.tops)
        if not rule.unknown and not rule.fans_out:  # whoever reads what it hands on needs the shape
            self._check_known(bottoms)
        needs_shapes = rule.needs_shapes(len(bottoms))
        shapes_in = tuple([self.blobs[i].shape for i in bottoms])
        in_place = tuple(
            [i < len(layer.bottoms) and top == layer.bottoms[i] for i, top in enumerate(names)]
        )
        common = (self.phase, layer.settings, shapes_in, len(names), in_place, layer.records,
                  layer.file_rows, layer.loss_weights, layer.unequal_records,
                  layer.unread)  # fmt: skip
        applied = self._applied.get((rule, common))
        if applied is None:
            try:
                applied = self._applied[rule, common] = _apply_rule(layer, rule, Site(*common))
            except ShapeError:
                if 0 in map(count, shapes_in):
                    self._refuse_empty(layer)
                raise
        shapes, param_shapes = applied
        tops = self._tops(layer, names, shapes, in_place)
        if needs_shapes:
            given = layer.given or (None,) * len(tops)
            new = [top for top, size in zip(tops, given, strict=False) if size is None]
            known = {top for top, same in zip(tops, in_place, strict=True) if same}
            self._shapeless |= {top: (layer.name, self.blobs[top].name) for top in set(new) - known}
        else:
            _check_given(layer, rule, shapes)
        if rule.fans_out and bottoms[0] in self._shapeless:
            self._shapeless |= dict.fromkeys(tops, self._shapeless[bottoms[0]])
        loss = _loss_weights(layer, rule, len(names))
        if len(layer.params) > len(param_shapes) and not rule.open_params:
            raise NetError(
                f"{len(layer.params)} param blocks for {len(param_shapes)} parameters",
                layer=layer.name,
                hint="Remove the surplus blocks.",
            )
        if rule.fixed_parameters and any(spec.lr_mult != 0 for spec in layer.params):
            raise NetError(
                f"a {layer.type} layer updates its own parameters; their lr_mult must be 0",
                layer=layer.name,
                hint="Write param { lr_mult: 0 } for each of the three, or no param at all.",
            )
        specs = layer.params[: len(param_shapes)]
        specs += (_NO_SPEC,) * (len(param_shapes) - len(specs))
        params = tuple(
            [self._parameter(layer, i, spec, param_shapes[i]) for i, spec in enumerate(specs)]
        )
        param_need = tuple([spec.lr_mult != 0 for spec in specs])
        learns = any(spec.lr_mult != 0 for spec in layer.params[len(param_shapes) :])
        backward = learns or any(param_need) or any(self.blob_need[i] for i in bottoms)
        bottom_need = layer.propagate_down or tuple([self.blob_need[i] for i in bottoms])
        if backward:
            for top in tops:
                self.blob_need[top] = True
        site = Site(*common, backward, bottom_need, param_need)
        self.nodes.append(Node(layer, rule, site, bottoms, tops, params, param_shapes, loss))

    def _refuse_empty(self, reader: Layer) -> None:
        """Refuses the first blob without elements: what reads it is only where Caffe aborts."""
        for node in self.nodes:
            for top in (self.blobs[top] for top in node.tops):
                if count(top.shape) == 0:
                    no_batch = not node.bottoms and top.shape[0] == 0
                    raise ShapeError(
                        f"its top {top.name!r} of shape {top.shape} has no elements, and "
                        f"{reader.name!r} reads it",
                        layer=node.layer.name,
                        hint="Write the batch size as the first number of its shape."
                        if no_batch
                        else None,
                    )

    def _check_known(self, bottoms: tuple[int, ...]) -> None:
        """Raises an InputShapeError for a bottom that a layer without a rule produces."""
        for i in bottoms:
            if i in self._shapeless:
                maker, name = self._shapeless[i]
                raise InputShapeError(
                    f"the shape of its top {name!r} is not known, but other layers read it",
                    layer=maker,
                    hint=[
                        "Give it without the batch axis, or whole: ",
                        Option("input_shape", f"{name}=CxHxW"),
                        " or ",
                        Option("input_shape", f"{name}:RxC"),
                        ".",
                    ],
                )

    def _tops(
        self, layer: Layer, names: list[str], shapes: tuple[Shape, ...], in_place: tuple[bool, ...]
    ) -> tuple[int, ...]:
        tops = []
        for i, (blob, shape) in enumerate(zip(names, shapes, strict=True)):
            _check_limits(layer, blob, shape)
            if in_place[i]:
                index = self._blob_index[blob]
                self.blobs[index] = Blob(blob, shape)
            elif blob in self._blob_index and i < len(layer.tops):
                raise NetError(
                    f"top {blob!r} is already produced by an earlier layer",
                    layer=layer.name,
                    hint="Give it another name, or work in place: the same name as the bottom "
                    "at the same position, read only by this layer.",
                )
            else:
                index = len(self.blobs)
                self.blobs.append(Blob(blob, shape))
                self.blob_need.append(False)
                if i < len(layer.tops):
                    self._blob_index[blob] = index
            tops.append(index)
        return tuple(tops)

    def _parameter(self, layer: Layer, index: int, spec: Param, shape: Shape) -> int:
        owner = self._param_index.get(spec.name) if spec.name else None
        if owner is None:
            _check_limits(layer, f"parameter {index}", shape)
            self.params.append(
                Parameter(layer.name, index, spec.name, shape, spec.lr_mult, spec.decay_mult)
            )
            owner = len(self.params) - 1
            if spec.name:
                self._param_index[spec.name] = owner
            return owner
        shared = self.params[owner]
        same = count(shape) == count(shared.shape) if spec.permissive else shape == shared.shape
        if not same:
            raise ShapeError(
                f"can't share parameter {spec.name!r} of layer {shared.layer!r}: {shape} here, "
                f"{shared.shape} there",
                layer=layer.name,
                hint="share_mode: PERMISSIVE allows different shapes with equal counts.",
            )
        self.params[owner] = replace(
            shared,
            lr_mult=_agreed("lr_mult", shared.lr_mult, spec.lr_mult, layer, spec),
            decay_mult=_agreed("decay_mult", shared.decay_mult, spec.decay_mult, layer, spec),
        )
        return owner


def _agreed(
    what: str, theirs: float | None, mine: float | None, layer: Layer, spec: Param
) -> float | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    if mine != theirs:
        raise NetError(
            f"shared parameter {spec.name!r} has {what} {mine:g} here and {theirs:g} elsewhere",
            layer=layer.name,
            hint="Give it the same value everywhere, or set it in one layer only.",
        )
    return mine


def _apply_rule(
    layer: Layer, rule: Rule, site: Site
) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    try:
        return rule.shape(site), rule.parameters(site)
    except NetError as error:
        if error.layer is not None:
            raise
        hint = error.hint_parts
        if hint is None and isinstance(error, InputShapeError):
            hint = ["Give it: ", Option("input_shape", f"{layer.tops[0]}=CxHxW"), "."]
        raise type(error)(error.message_parts, layer=layer.name, hint=hint) from None


def _check_given(layer: Layer, rule: Rule, shapes: Sequence[Shape]) -> None:
    """Refuses a shape that the user gave for a top and its layer contradicts.

    What is given for tops that a source decides is the size of its records. Axes of length 1 don't
    count: labels are (N,) or (N, 1).

    Raises:
        ShapeError: Which top, and both shapes.
    """
    of_records = 0
    if rule.source is not None:
        of_records = len(layer.tops) if rule.source.decides_all_tops else 1
    places = list(zip(layer.tops, layer.given, shapes, strict=False))
    for top, given, shape in places[of_records:]:
        if given is None:
            continue
        first = shape[0] if shape else 1
        wanted = given.at(first) if isinstance(given, WholeShape) else (first, *given)
        if [size for size in wanted if size != 1] != [size for size in shape if size != 1]:
            raise ShapeError(
                [
                    f"its top {top!r} is {shape} by the rule of its type, which contradicts ",
                    Option("input_shape", spelled(top, given)),
                ],
                layer=layer.name,
                hint="Leave it out, or correct it.",
            )


def _check_number(layer: Layer, what: str, number: int, limits: tuple[int, int | None]) -> None:
    least, most = limits
    if number < least or (most is not None and number > most):
        wanted = (
            f"{least}" if least == most
            else f"at least {least}" if most is None
            else f"{least} to {most}"
        )  # fmt: skip
        raise NetError(
            f"the type {layer.type} takes {wanted} {what}(s), not {number}", layer=layer.name
        )


def _check_limits(layer: Layer, blob: str, shape: Shape) -> None:
    if count(shape) > MAX_COUNT:
        raise ShapeError(
            f"{blob} {shape} has {count(shape)} elements; Caffe's limit is {MAX_COUNT}",
            layer=layer.name,
            hint="A smaller batch_size (and a larger iter_size) stays below it.",
        )
    if len(shape) > MAX_AXES or min(shape, default=0) < 0:
        raise ShapeError(f"{blob} {shape} has a shape that no blob can have", layer=layer.name)


def _loss_weights(layer: Layer, rule: Rule, tops: int) -> tuple[float, ...]:
    weights = layer.loss_weights or ((1.0,) if rule.is_loss else ())
    if not weights:
        return (0.0,) * tops
    if rule.unknown and not layer.loss_weights:
        return (*weights, *(0.0,) * tops)[:tops]
    if len(weights) != tops:
        raise NetError(
            f"{len(weights)} loss_weight value(s) for {tops} tops",
            layer=layer.name,
            hint="Give one loss_weight per top (0 for tops that aren't a loss).",
        )
    return weights


def _mark_backward(
    nodes: list[Node], blobs: list[Blob], blob_need: list[bool], force_backward: bool
) -> list[Node]:
    """Second pass of Net::Init: no gradient for what leads to no loss or needs none.

    Caffe keeps its two sets by blob *name*, so several anonymous tops count as one.
    """
    under_loss: set[str] = set()
    skipped: set[str] = set()
    out: list[Node] = []
    for node in reversed(nodes):
        site = node.site
        contributes, skips = False, True
        for top, weight in zip(node.tops, node.loss, strict=True):
            blob = blobs[top].name
            contributes = contributes or bool(weight) or blob in under_loss
            skips = skips and blob in skipped
            if contributes and not skips:
                break
        backward, need = site.backward, site.bottom_need
        if backward and skips:
            backward, need = False, (False,) * len(need)
        if not contributes:
            backward, need = False, (False,) * len(need)
        for bottom, needed in zip(node.bottoms, need, strict=True):
            if contributes:
                under_loss.add(blobs[bottom].name)
            if not needed:
                skipped.add(blobs[bottom].name)
        if force_backward:
            backward = True
            forced = node.rule.forced_bottoms
            need = tuple([
                needed or i >= len(forced) or forced[i] for i, needed in enumerate(need)
            ])  # fmt: skip
        if backward != site.backward or need != site.bottom_need or force_backward:
            param_need = (True,) * len(site.param_need) if force_backward else site.param_need
            site = replace(site, backward=backward, bottom_need=need, param_need=param_need)
            node = replace(node, site=site)
        out.append(node)
    out.reverse()
    return out
