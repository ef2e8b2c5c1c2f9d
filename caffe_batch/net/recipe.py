"""What the user starts from: a solver with its train net and test nets, or just a net.

Source: solver.cpp (InitTrainNet, InitTestNets): which net comes from which field, and the order
of the test nets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caffe_batch import prototxt
from caffe_batch.errors import (
    InputError,
    InputShapeError,
    MissingBottomError,
    NetError,
    Option,
    ShapeError,
)
from caffe_batch.layers.base import Layer, Phase, Rule, Shape
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.hints import TypeHints
from caffe_batch.layers.loading import installed_rules, own_kinds, with_fork, with_hints
from caffe_batch.layers.registry import Registry
from caffe_batch.net.assumed import assumptions, known_of, with_assumed_batches
from caffe_batch.net.batch import batch_sites
from caffe_batch.net.convert import convert
from caffe_batch.net.data.unread import unread_messages
from caffe_batch.net.filtering import left_out_by, missing_stages, net_state, select
from caffe_batch.net.forks import ForkChoice, choose_fork
from caffe_batch.net.graph import Net, build, rule_of
from caffe_batch.net.kinds import kind
from caffe_batch.net.sources import RecordSizes, Sources
from caffe_batch.net.splits import insert_splits
from caffe_batch.prototxt import SkippedField
from caffe_batch.schema import caffe_pb2

#: The solver fields that give the train net; exactly one of them may be set.
TRAIN_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


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


def read_recipe(
    net: str | Path,
    solver: str | Path | None = None,
    *,
    allow_unknown_fields: bool = False,
    rules: Registry | None = None,
) -> Recipe:
    """Reads a net, or a solver with its nets.

    Args:
        net: A net file, or a solver file (whose nets are then read too).
        solver: The solver to train ``net`` with; its own train net is then not read. Its test nets
            are those that it holds and those in files of their own; any others are in ``net``.
        allow_unknown_fields: Skip fields that Caffe 1.0 doesn't know, with a warning.
        rules: What the layer types do; if None, the built-in rules and those of packages.

    Raises:
        InputError: A file is missing, unreadable, or contradicts itself.
    """
    path, skipped = Path(net), list[SkippedField]()
    allowed = {"allow_unknown_fields": allow_unknown_fields}
    if solver is None:
        message = prototxt.read(path, skipped=skipped, **allowed)
        if isinstance(message, caffe_pb2.SolverParameter):
            return follow_solver(message, path, rules=rules, skipped=skipped, **allowed)
    else:
        message = prototxt.read_net(path, skipped=skipped, **allowed)
    rules = rules or installed_rules()
    settings, inside = caffe_pb2.SolverParameter(), list[SkippedField]()
    solver_path = None
    if solver is not None:
        solver_path = Path(solver)
        settings = prototxt.read_solver(solver_path, skipped=inside, **allowed)
    found = _Found(message, path, tuple(skipped))
    train = found.file(net_state("TRAIN", message, settings.train_state), rules)
    _check_trainable(train)
    named = _inline_tests(settings, inside)
    notes: list[str] = []
    if solver_path is not None:
        named += _named_nets(settings.test_net, solver_path, notes, allow_unknown_fields)
    number = len(settings.test_iter)
    if number < len(named):
        raise InputError(
            f"{solver_path}: {number} test_iter for {len(named)} test nets",
            hint="Give one test_iter for each test net.",
        )
    named += [found] * (number - len(named))
    tests = _test_files(settings, named, rules)
    return _of_fork(Recipe(settings, solver_path, train, tests, tuple(notes)))


def follow_solver(
    solver: caffe_pb2.SolverParameter,
    path: Path,
    *,
    allow_unknown_fields: bool = False,
    rules: Registry | None = None,
    skipped: Iterable[SkippedField] = (),
) -> Recipe:
    """The recipe of a solver: reads its nets.

    Args:
        solver: The solver, in current syntax.
        path: Its file: nets that aren't where Caffe looks are looked for beside it.
        allow_unknown_fields: As for :func:`read_recipe`.
        rules: As for :func:`read_recipe`.
        skipped: The fields of the solver that were skipped; some are of nets inside it.

    Raises:
        InputError: A net is missing, unreadable, or the solver contradicts itself.
    """
    rules = rules or installed_rules()
    given = [field.name for field, _ in solver.ListFields() if field.name in TRAIN_NET_FIELDS]
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else "has none"
        do = "Keep one of them" if given else 'Add net: "FILE"'
        raise InputError(
            f"{path}: a solver names its train net in one of {', '.join(TRAIN_NET_FIELDS)}; "
            f"this one {has}",
            hint=[f"{do}, or give the net itself, with ", Option("solver", str(path)), "."],
        )
    notes: list[str] = []
    skipped = tuple(skipped)
    if solver.HasField("train_net_param"):
        train = _inline(solver.train_net_param, ("train_net_param",), skipped)
    elif solver.HasField("net_param"):
        train = _inline(solver.net_param, ("net_param",), skipped)
    else:
        name = solver.train_net or solver.net
        (train,) = _named_nets([name], path, notes, allow_unknown_fields)
    named = _inline_tests(solver, skipped)
    named += _named_nets(solver.test_net, path, notes, allow_unknown_fields)
    missing = len(solver.test_iter) - len(named)
    generic = solver.HasField("net") or solver.HasField("net_param")
    if missing < 0 or (missing > 0 and not generic):
        raise InputError(
            f"{path}: {len(solver.test_iter)} test_iter for {len(named)} test nets",
            hint="Give one test_iter for each test net.",
        )
    named += [train] * missing
    tests = _test_files(solver, named, rules)
    if tests and solver.test_interval <= 0:
        raise InputError(
            f"{path}: test nets need a test_interval above 0, not {solver.test_interval}",
            hint="Set test_interval to the number of updates between tests.",
        )
    train_file = train.file(net_state("TRAIN", train.message, solver.train_state), rules)
    _check_trainable(train_file)
    return _of_fork(Recipe(solver, path, train_file, tests, tuple(notes)))


def _of_fork(recipe: Recipe) -> Recipe:
    """The recipe with the rules of the fork that its nets are written for, and a note of it."""
    files = (recipe.train, *recipe.tests)
    rules = recipe.train.rules
    messages = {id(file.message): file.message for file in files}
    choice = choose_fork(list(messages.values()), rules.fork, own_kinds(rules))
    if choice is None:
        return recipe
    if choice.name is not None and choice.name != rules.fork:
        rules = with_fork(rules, choice.name)
    train, *tests = [replace(file, rules=rules) for file in files]
    notes = (*recipe.notes, choice.sentence) if choice.sentence else recipe.notes
    return replace(recipe, train=train, tests=tuple(tests), notes=notes, fork=choice)


@dataclass(frozen=True)
class _Found:
    """A net as it was read: the message, its file (None inside a solver), its skipped fields."""

    message: caffe_pb2.NetParameter
    path: Path | None
    skipped: tuple[SkippedField, ...]

    def file(self, state: caffe_pb2.NetState, rules: Registry) -> NetFile:
        return NetFile(self.message, self.path, state, rules, self.skipped)


def _test_files(
    solver: caffe_pb2.SolverParameter, nets: Sequence[_Found], rules: Registry
) -> tuple[NetFile, ...]:
    return tuple(
        each.file(net_state("TEST", each.message, state), rules)
        for each, state in zip(nets, _test_states(solver, len(nets)), strict=True)
    )


def _named_nets(
    names: Iterable[str], solver: Path, notes: list[str], allow_unknown_fields: bool
) -> list[_Found]:
    """The nets that a solver names. How they were found is added to the notes."""
    nets = []
    for name in names:
        found, note = _find_net(name, solver)
        if note and note not in notes:
            notes.append(note)
        own: list[SkippedField] = []
        net = prototxt.read_net(found, allow_unknown_fields=allow_unknown_fields, skipped=own)
        nets.append(_Found(net, found, tuple(own)))
    return nets


def _inline_tests(
    solver: caffe_pb2.SolverParameter, skipped: Sequence[SkippedField]
) -> list[_Found]:
    return [
        _inline(net, ("test_net_param", number), skipped)
        for number, net in enumerate(solver.test_net_param)
    ]


def _inline(
    net: caffe_pb2.NetParameter, place: tuple[str | int, ...], skipped: Iterable[SkippedField]
) -> _Found:
    """A net that is written inside a solver.

    Args:
        net: The net.
        place: Where it stands in the solver.
        skipped: The skipped fields of the solver.
    """
    inside = []
    for each in skipped:
        match each.path[len(place) :]:
            case ("layer", int(index), *rest) if each.path[: len(place)] == place:
                before = len(each.path) - len(rest)
                batch = each.batch and (each.batch[0][before:], each.batch[1])
                inside.append(replace(each, layer=index, path=tuple(rest), batch=batch))
    return _Found(net, None, tuple(inside))


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


def _find_net(name: str, solver: Path) -> tuple[Path, str | None]:
    """A net that a solver names: from the working directory as in Caffe, or else beside it."""
    if os.path.exists(name):
        return Path(name), None
    beside = solver.parent / name
    if not os.path.exists(beside):
        beside = solver.parent / Path(name).name
    if os.path.exists(beside):
        return beside, f"net {name!r} was found beside the solver, as {beside}"
    folders = dict.fromkeys([Path.cwd(), solver.parent.resolve()])
    raise InputError(
        f"{solver}: its net {name!r} is not in {' or '.join(map(str, folders))}",
        hint=[
            "Run in the directory that the path starts from, or give the net itself, with ",
            Option("solver", str(solver)),
            ".",
        ],
    )


def _test_states(solver: caffe_pb2.SolverParameter, number: int) -> list[caffe_pb2.NetState | None]:
    if not solver.test_state:
        return [None] * number
    if len(solver.test_state) != number:
        raise InputError(
            f"{len(solver.test_state)} test_state for {number} test nets",
            hint="Give one test_state for each test net, or none at all.",
        )
    return list(solver.test_state)


def _check_trainable(train: NetFile) -> None:
    where = f"{train.path}: " if train.path else ""
    if not train.message.layer:
        raise NetError(
            f"{where}the net has no layers", hint="A net needs at least a data layer and a loss."
        )
    if not train.selected():
        raise NetError(
            f"{where}no layer belongs to the TRAIN phase",
            hint="Every layer has an include rule for another phase, level or stage. Set "
            "train_state in the solver, or give a net with a TRAIN phase.",
        )
    makers = [layer for layer in train.message.layer if not layer.bottom]
    if makers and all(layer.bottom for _, layer in train.selected()):
        raise NetError(
            f"{where}no layer of the TRAIN phase reads or produces data",
            hint=f"Layer {makers[0].name!r} does, but its include or exclude rules keep it out.",
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
