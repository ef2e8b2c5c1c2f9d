"""What the user starts from: a solver with its train net and test nets, or just a net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caffe_batch.errors import (
    InputShapeError,
    MissingBottomError,
    NetError,
    Option,
    ShapeError,
)
from caffe_batch.layers.base import Layer, Phase, Rule, Shape
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.hints import TypeHints
from caffe_batch.layers.loading import installed_rules, with_hints
from caffe_batch.layers.registry import Registry
from caffe_batch.net.assumed import assumptions, known_of, with_assumed_batches
from caffe_batch.net.batch import batch_sites
from caffe_batch.net.convert import convert
from caffe_batch.net.data.unread import unread_messages
from caffe_batch.net.filtering import left_out_by, missing_stages, select
from caffe_batch.net.forks import ForkChoice
from caffe_batch.net.graph import Net, build, rule_of
from caffe_batch.net.kinds import kind
from caffe_batch.net.sources import RecordSizes, Sources
from caffe_batch.net.splits import insert_splits
from caffe_batch.prototxt import SkippedField
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class NetFile:
    """A net as it was written.

    Attributes:
        message: The net in current syntax.
        path: Its file, or None if it is written inside the solver.
        state: The state it is built for: phase, level, Caffe's stages.
        rules: What the layer types do.
        skipped: The fields that Caffe 1.0 doesn't have, which were skipped.
    """

    message: caffe_pb2.NetParameter
    path: Path | None
    state: caffe_pb2.NetState
    rules: Registry = field(default_factory=installed_rules, repr=False)
    skipped: tuple[SkippedField, ...] = field(default=(), repr=False)

    @property
    def phase(self) -> Phase:
        """The phase it is built for."""
        return "TRAIN" if self.state.phase == caffe_pb2.TRAIN else "TEST"

    def selected(self) -> list[tuple[int, caffe_pb2.LayerParameter]]:
        """The layers of this state, each with its index in ``message.layer``."""
        return select(self.message.layer, self.state)

    def layers(self, sources: Sources, *, allow_unknown: bool = False) -> tuple[Layer, ...]:
        """The layers of this state as plain data, with the record shapes of their sources."""
        out: list[Layer] = []
        known: dict[Any, Any] = {}
        for index, message in self.selected():
            skipped = self.skipped_of(index)
            rule = self.rules.rule_for(kind(message), message.name, allow_unknown=allow_unknown)
            if rule.has_batch_size and getattr(message, rule.message).batch_size < 1:
                raise self._without_batch_size(message, rule)
            layer = convert(message, rule, self._record_sizes(message, rule, sources), known)
            names = () if rule.assumes_batch else _mattering(skipped, message, sources)
            layer = replace(layer, given=sources.given(message), skipped=names)
            if rule.fed_by_program and rule.declares_shapes:
                layer = _with_given_shapes(layer)
            if rule.assumes_batch:
                settings = known_of(message, rule, sources, skipped)
                layer = replace(layer, settings=settings)
            out.append(layer)
        return with_assumed_batches(out, sources.batch_size)

    def skipped_of(self, index: int) -> tuple[SkippedField, ...]:
        """The skipped fields of the layer with this index in ``message.layer``."""
        return tuple(each for each in self.skipped if each.layer == index)

    def _record_sizes(
        self, message: caffe_pb2.LayerParameter, rule: Rule, sources: Sources
    ) -> RecordSizes:
        """What the sources say; if they don't, the error also names a message that isn't read."""
        try:
            return sources.records(message, rule)
        except InputShapeError as error:
            unread = next(unread_messages(message, self.rules), None)
            if unread is None:
                raise
            combined = InputShapeError(f"{error.message}; {unread.message}", hint=unread.hint)
            combined.layer = message.name
            raise combined from error

    def _without_batch_size(self, message: caffe_pb2.LayerParameter, rule: Rule) -> ShapeError:
        """The error for a data layer whose batches are empty; names a message that isn't read."""
        unread = next(unread_messages(message, self.rules), None)
        about = f"; {unread.message}" if unread else ""
        return ShapeError(
            f"{rule.message} needs batch_size, at least 1{about}",
            layer=message.name,
            hint=unread.hint if unread else f"Write {rule.message} {{ batch_size: N }}.",
        )

    def asking(self, hints: TypeHints) -> NetFile:
        """The same net with other hints about types without a rule."""
        return replace(self, rules=with_hints(self.rules, hints))

    def known(self) -> Iterator[tuple[int, caffe_pb2.LayerParameter, Rule]]:
        """The layers of this state whose type has a rule: index in the file, message, rule."""
        for index, message in self.selected():
            if kind(message) in self.rules:
                yield index, message, self.rules[kind(message)]

    def frozen_parameters(self) -> list[tuple[str, int]]:
        """The parameters that no update changes (lr_mult 0): (name of the owning layer, index).

        Source: net.cpp, AppendParam: the first layer that names a shared parameter owns it, and
        the first that sets its lr_mult decides.
        """
        owners: dict[str | tuple[str, int], tuple[str, int]] = {}
        rates: dict[str | tuple[str, int], float] = {}
        for _, layer in self.selected():
            for index, spec in enumerate(layer.param):
                here = (layer.name, index)
                owners.setdefault(spec.name or here, here)
                if spec.HasField("lr_mult"):
                    rates.setdefault(spec.name or here, spec.lr_mult)
        return [owners[key] for key, rate in rates.items() if rate == 0]

    def build(self, layers: Sequence[Layer], *, has_splits: bool = False) -> Net:
        """The net of these layers (see :meth:`layers`)."""
        split = layers if has_splits else self.with_splits(layers)
        try:
            return build(
                split,
                phase=self.phase,
                name=self.message.name,
                force_backward=self.message.force_backward,
                has_splits=True,
            )
        except NetError as error:
            found = error if self.phase == "TRAIN" else _in_test_net(error)
            _tell_assumed(found, layers)
            if found is error:
                raise
            raise found from error

    def with_splits(self, layers: Sequence[Layer]) -> list[Layer]:
        """These layers (see :meth:`layers`) with the Splits that Caffe inserts.

        Raises:
            MissingBottomError: No earlier layer produces a bottom; names the layer that would if
                it weren't left out of this net.
        """
        try:
            return insert_splits(layers)
        except MissingBottomError as error:
            raise self._with_left_out(error) from error

    def _with_left_out(self, error: MissingBottomError) -> MissingBottomError:
        """The error with the layer that would produce the blob, if one is left out of this net."""
        inside = {index for index, _ in self.selected()}
        for index, layer in enumerate(self.message.layer):
            if error.blob in layer.top and index not in inside:
                break
        else:
            return error
        rules = left_out_by(layer, self.state)
        about = f"; layer {layer.name!r} produces it, but isn't in the {self.phase} net: {rules}"
        stages = missing_stages(layer, self.state)
        if stages:
            wanted = " ".join(f'stage: "{stage}"' for stage in stages)
            field = "train_state" if self.phase == "TRAIN" else "test_state"
            hint = f"Write {field} {{ {wanted} }} in the solver, or change the rule of the layer."
        else:
            hint = f"Change the rule of {layer.name!r}, or leave out the layers that need it too."
        text = error.message_parts
        parts = [text] if isinstance(text, str) else text
        explained = MissingBottomError([*parts, about], blob=error.blob, hint=hint)
        explained.layer = error.layer
        return explained


@dataclass(frozen=True)
class Recipe:
    """A solver and its nets, as the user gave them.

    Attributes:
        solver: The solver; an empty message if the user gave just a net.
        solver_path: Its file, or None.
        train: The train net.
        tests: The test nets, in Caffe's order.
        notes: What the user should know about how the files were found.
        fork: The fork of Caffe that its nets are written for; None if they have nothing of one.
    """

    solver: caffe_pb2.SolverParameter
    solver_path: Path | None
    train: NetFile
    tests: tuple[NetFile, ...]
    notes: tuple[str, ...] = ()
    fork: ForkChoice | None = None

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where relative paths are looked up: where Caffe looks, then beside the files."""
        paths = [path.parent for path in (self.train.path, self.solver_path) if path is not None]
        return tuple(dict.fromkeys([Path(), *paths]))

    def file_of_test(self, number: int) -> str:
        """Where a test net is written: ``net``, ``solver`` (inline) or ``test_net_N`` (its own)."""
        if self.tests[number].message is self.train.message:
            return "net"
        return "solver" if number < len(self.solver.test_net_param) else f"test_net_{number}"

    @property
    def skipped(self) -> tuple[SkippedField, ...]:
        """The fields of its nets that were skipped, each once."""
        files = (self.train, *self.tests)
        return tuple(dict.fromkeys(each for file in files for each in file.skipped))

    def open_tops(self) -> Iterator[str]:
        """The tops whose shapes aren't in the files: those of layers without bottoms or a rule."""
        for file in (self.train, *self.tests):
            for layer in file.message.layer:
                if not layer.bottom or kind(layer) not in file.rules:
                    yield from layer.top

    def tops(self) -> Iterator[str]:
        """All tops of the nets."""
        for file in (self.train, *self.tests):
            for layer in file.message.layer:
                yield from layer.top

    def sample_layers(self, file: NetFile, layers: Sequence[Layer]) -> frozenset[tuple[int, int]]:
        """What a net gets its samples through: which message, and which layer of it.

        Args:
            file: A net of the recipe.
            layers: Its layers, as :meth:`NetFile.layers` gave them.
        """
        selected = file.selected()
        return frozenset(
            (id(file.message), selected[site.layer][0])
            for site in batch_sites(layers)
            if rule_of(layers[site.layer]).makes_data
        )


def _mattering(
    skipped: Sequence[SkippedField], layer: caffe_pb2.LayerParameter, sources: Sources
) -> tuple[str, ...]:
    """The skipped fields of a layer that may change its shapes or memory.

    What happens to images doesn't matter where the user gives their size.
    """
    given = any(each is not None for each in sources.given(layer))
    return tuple(
        each.name
        for each in skipped
        if each.matters and not (given and each.path[:1] == ("transform_param",))
    )


def _in_test_net(error: NetError) -> NetError:
    """The error of a TEST net, which says so."""
    text = error.message_parts
    parts = [text] if isinstance(text, str) else text
    located = type(error)(["in the TEST net, ", *parts], hint=error.hint_parts)
    located.layer = error.layer
    return located


def _tell_assumed(error: NetError, layers: Sequence[Layer]) -> None:
    """Adds to an error what is only assumed of the images, and the option that says more."""
    assumed = [each for each in assumptions(layers) if each.what == "shapes"]
    names = {each.layer for each in assumed}
    error.notes = (*error.notes, *(each.text for each in assumed))
    tops = [layer.tops[0] for layer in layers if layer.name in names and not layer.bottoms]
    if tops and not error.completion:
        error.completion = tuple(Option("input_shape", f"{top}=3xHxW") for top in tops)


def _with_given_shapes(layer: Layer) -> Layer:
    """An Input layer with the shapes that the user gave; its batch size is kept, or 1."""
    if not any(given is not None for given in layer.given):
        return layer
    shapes = layer.settings.shape
    if len(shapes) <= 1:
        shapes = (shapes or ((),)) * len(layer.tops)
    if len(shapes) != len(layer.tops):
        return layer  # the layer's rule refuses it
    shapes = tuple(
        shape if given is None else _sized(shape, given)
        for given, shape in zip(layer.given, shapes, strict=True)
    )
    return replace(layer, settings=replace(layer.settings, shape=shapes))


def _sized(shape: Shape, given: Given) -> Shape:
    """A shape as it was given, with the batch size of the one in the file."""
    first = shape[0] if shape else 1
    return given.at(first) if isinstance(given, WholeShape) else (first, *given)
