"""A recipe from its files: a solver with its train net and test nets, or just a net.

Source: solver.cpp (InitTrainNet, InitTestNets): which net comes from which field, and the order
of the test nets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch import prototxt
from caffe_batch.errors import InputError, NetError, Option
from caffe_batch.layers.loading import installed_rules, own_kinds, with_fork
from caffe_batch.layers.registry import Registry
from caffe_batch.net.filtering import net_state
from caffe_batch.net.forks import choose_fork
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.prototxt import SkippedField
from caffe_batch.schema import caffe_pb2

#: The solver fields that give the train net; exactly one of them may be set.
TRAIN_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


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
