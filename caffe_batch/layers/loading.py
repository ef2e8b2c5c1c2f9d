"""Rules beside the built-in ones: from installed packages, and from the user's own files.

Both provide a list of rules: a file in its variable ``RULES``, a package in an entry point of the
group ``caffe_batch.rules``. What such a rule returns is checked each time, so that a mistake in it
becomes a sentence with its file and line, not a failure somewhere else.
"""

from __future__ import annotations

import importlib.metadata
import runpy
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from threading import Thread
from types import FunctionType
from typing import Any, TypeVar

from caffe_batch.errors import CaffeBatchError, InputError, Option, did_you_mean
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Inner,
    Labels,
    Memory,
    Mode,
    Phase,
    Rule,
    Shape,
    Site,
)
from caffe_batch.layers.facts import Numbers
from caffe_batch.layers.forks import CHANGED, changed_by, types_of
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.hints import NO_HINTS, TypeHints
from caffe_batch.layers.own import OwnRule, treated_as
from caffe_batch.layers.registry import Registry
from caffe_batch.layers.sides import Side
from caffe_batch.schema import caffe_pb2

T = TypeVar("T")

#: How long the import of a file or package of rules may take.
LOADING_S = 60.0

#: The entry points of installed packages.
ENTRY_POINTS = "caffe_batch.rules"

_HINT = "docs/rules.md shows how a rule is written."


@cache
def installed_rules(fork: str | None = None) -> Registry:
    """The built-in rules and those of installed packages.

    Args:
        fork: The fork of Caffe whose types these are; None where it isn't known.

    Raises:
        InputError: A package's rules can't be loaded, or two rules have the same type.
    """
    return _registry(fork, _of_packages(), (), NO_HINTS)


def rules_with(
    files: Sequence[Path | str], fork: str | None = None, hints: TypeHints = NO_HINTS
) -> Registry:
    """The installed rules, those of some files, and what the user says without writing any.

    Args:
        files: Python files with a list ``RULES``.
        fork: As for :func:`installed_rules`.
        hints: What the user says about types without a rule.

    Raises:
        InputError: A file can't be read, isn't Python or has no rules (says where), two rules
            have the same type, or a type is to be treated as one that has no rule.
    """
    if not files and hints == NO_HINTS:
        return installed_rules(fork)
    paths = tuple(dict.fromkeys(Path(file).resolve() for file in files))
    own = [rule for path in paths for rule in _of_file(path)]
    return _registry(fork, (*_of_packages(), *own), paths, hints)


def own_kinds(rules: Registry) -> frozenset[str]:
    """The types that a user or a package has a rule for."""
    known = {*BUILT_IN.values(), *CHANGED, *types_of(rules.fork)}
    return frozenset(kind for kind, rule in rules.items() if rule not in known)


def with_fork(rules: Registry, fork: str) -> Registry:
    """The same rules, with those of a fork's types."""
    known = {*BUILT_IN.values(), *CHANGED, *types_of(rules.fork)}
    own = [rule for rule in rules.values() if rule not in known]
    return _of_fork(fork, own, rules.files, rules.hints)


def with_hints(rules: Registry, hints: TypeHints) -> Registry:
    """The same rules, and those of Python layers that were asked since."""
    new = replace(hints, treat_as=(), same_shape=())
    known = {*BUILT_IN.values(), *CHANGED, *types_of(rules.fork)}
    own = [rule for rule in rules.values() if rule not in known]
    return _of_fork(rules.fork, [*own, *new.rules()], rules.files, hints)


def _registry(
    fork: str | None, own: Iterable[Rule], files: tuple[Path, ...], hints: TypeHints
) -> Registry:
    """All rules; those that refer to the rule of another type are looked up."""
    own = list(own)
    rules = [*(rule for rule in own if not _other(rule)), *hints.rules()]
    known = _of_fork(fork, rules, files, hints)
    wanted = [(rule.type, _other(rule), rule.origin) for rule in own if _other(rule)]
    option = Option("treat_as").shell
    wanted += [(one, other, option) for one, other in hints.treat_as]
    treated = [treated_as(one, _target(known, one, other, by), by) for one, other, by in wanted]
    return _of_fork(fork, [*rules, *treated], files, hints)


def _of_fork(
    fork: str | None, own: Iterable[Rule], files: tuple[Path, ...], hints: TypeHints
) -> Registry:
    """Caffe's types as the fork has them, other types of forks, and rules from outside."""
    changed = changed_by(fork)
    caffe = [changed.get(rule.type, rule) for rule in BUILT_IN.values()]
    return Registry((*caffe, *own), files, forks=types_of(fork), fork=fork, hints=hints)


def _other(rule: Rule) -> str:
    """The type whose rule is to be taken instead; empty for none."""
    return str(getattr(rule, "treat_as", ""))


def _target(known: Registry, one: str, other: str, by: str) -> Rule:
    """The rule of the type that another one is to be treated as.

    Raises:
        InputError: It has none.
    """
    if other not in known:
        raise InputError(
            f"{by}: {one!r} can't be treated as {other!r}, which is no layer type with a rule",
            hint=known.closest(other) or "It takes a type of Caffe, or one with a rule of its own.",
        )
    return known[other]


def _of_packages() -> Iterator[Rule]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"entry point {entry.name!r} ({entry.value})"
        try:
            found = _in_time(entry.load, where)
        except CaffeBatchError:
            raise
        except BaseException as error:
            _pass_on(error)
            raise InputError(f"{where} can't be loaded: {_text(error)}") from error
        yield from _checked(found, where)


def _of_file(path: Path) -> Iterator[Rule]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such rules file")
    try:
        found = _in_time(lambda: runpy.run_path(str(path)), str(path))
    except SyntaxError as error:
        where = error.filename or path
        raise InputError(
            f"{where}:{error.lineno or 1}: not valid Python ({error.msg})", hint=_HINT
        ) from error
    except (ValueError, UnicodeError) as error:
        if _frames(error, path):
            raise InputError(f"{_line_in(error, path)}: {_text(error)}", hint=_HINT) from error
        raise InputError(f"{path}: not valid Python ({error})", hint=_HINT) from error
    except CaffeBatchError:
        raise
    except BaseException as error:
        _pass_on(error)
        raise InputError(f"{_line_in(error, path)}: {_text(error)}", hint=_HINT) from error
    if "RULES" not in found:
        raise InputError(f"{path}: it has no list RULES", hint=_HINT)
    yield from _checked(found["RULES"], str(path))


def _checked(rules: Any, where: str) -> Iterator[Rule]:
    if isinstance(rules, (str, bytes)) or not isinstance(rules, Iterable):
        raise InputError(f"{where}: RULES is not a list of rules: {rules!r}", hint=_HINT)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise InputError(
                f"{where}: RULES contains {rule!r}, which is not a Rule",
                hint="It takes instances: RULES = [MyRule()].",
            )
        if not isinstance(rule.type, str) or not rule.type:
            raise InputError(f"{_origin(rule, where)}: the rule has no type", hint=_HINT)
        _check_names(rule, where)
        _check_settings(rule, where)
        _check_own(rule, where)
        _check_together(rule, where)
        yield CheckedRule(rule, where)


#: The fields of each message that a layer can have, and under "" those of the layer itself.
_FIELDS = {
    "": frozenset(caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name),
    **{
        field.name: frozenset(field.message_type.fields_by_name)
        for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if field.message_type is not None and field.name.endswith("_param")
    },
}


#: What a rule may define.
_NAMES = tuple(name for name in dir(OwnRule) if not name.startswith("_"))


def _check_names(rule: Rule, where: str) -> None:
    """Refuses attributes that look like misspelled ones of rules, which would count for nothing.

    Raises:
        InputError: Which one, and what it may have been meant to be.
    """
    package = __name__.partition(".")[0]
    own = [each for each in type(rule).__mro__ if each.__module__.partition(".")[0] != package]
    for name in dict.fromkeys(name for each in own for name in vars(each)):
        near = None if name.startswith("_") or name in _NAMES else did_you_mean(name, _NAMES)
        if near:
            owner = f"{_origin(rule, where)}: {type(rule).__qualname__}"
            raise InputError(
                f"{owner} has {name!r}, which no rule has",
                hint=f"{near} What is the class's own begins with an underscore.",
            )


def _check_settings(rule: Rule, where: str) -> None:
    """Refuses settings that caffe.proto doesn't have.

    Raises:
        InputError: ``message`` isn't a message of a layer, ``settings`` isn't a dataclass, or a
            field of it isn't one of its message.
    """
    place = f"{_origin(rule, where)}: {type(rule).__qualname__}"
    settings = rule.settings
    if settings is not None and not (isinstance(settings, type) and is_dataclass(settings)):
        raise InputError(f"{place}.settings is {settings!r}, not a dataclass", hint=_HINT)
    given = fields(settings) if settings is not None else ()
    origins = [(each, each.metadata.get("message", rule.message)) for each in given]
    for message in (rule.message, *rule.other_messages, *(message for _, message in origins)):
        if message not in _FIELDS:
            raise InputError(
                f"{place} reads the message {message!r}, which LayerParameter doesn't have",
                hint=did_you_mean(str(message), sorted(filter(None, _FIELDS))) or _HINT,
            )
    for each, message in origins:
        if each.name not in _FIELDS[message]:
            raise InputError(
                f"{place}.settings has the field {each.name!r}, which "
                f"{message or 'LayerParameter'} doesn't have",
                hint=did_you_mean(each.name, sorted(_FIELDS[message])) or _HINT,
            )


def _check_own(rule: Rule, where: str) -> None:
    """Refuses class attributes of an :class:`OwnRule` that say nothing.

    Raises:
        InputError: Which one, and what it takes.
    """
    if not isinstance(rule, OwnRule):
        return
    place = f"{_origin(rule, where)}: {type(rule).__qualname__}"
    lists = {name: isinstance(getattr(rule, name), list | tuple) for name in ("shapes", "buffers")}
    wrong = {
        "treat_as": not isinstance(rule.treat_as, str),
        "same_as": not (rule.same_as is None or (type(rule.same_as) is int and rule.same_as >= 0)),
        "shapes": rule.shapes is not None
        and not (lists["shapes"] and all(map(_is_shape_text, rule.shapes))),
        "buffers": not (
            lists["buffers"] and all(type(times) is int and times >= 0 for times in rule.buffers)
        ),
        "loss": rule.loss not in ("", "mean", "sum"),
    }
    takes = {
        "treat_as": 'the name of another type, such as "BatchNorm"',
        "same_as": "the number of a bottom, counted from 0",
        "shapes": 'a list of shapes such as "Nx21x32x32" or "128x5"',
        "buffers": "a tuple of whole numbers",
        "loss": '"mean" or "sum"',
    }
    for name in (name for name, bad in wrong.items() if bad):
        found = getattr(rule, name)
        raise InputError(f"{place}.{name} is {found!r}, but takes {takes[name]}", hint=_HINT)


def _is_shape_text(shape: object) -> bool:
    try:
        return isinstance(shape, str) and bool(WholeShape.parse(shape) or True)
    except ValueError:
        return False


#: Methods that belong together: who finds a batch size in a shape also says where it is written.
_TOGETHER = ("literal_shapes", "with_literal_shapes", "literal_path")


def _check_together(rule: Rule, where: str) -> None:
    """Refuses a rule that has only some of the methods that belong together.

    Raises:
        InputError: One is missing; names it.
    """
    own = [name for name in _TOGETHER if getattr(type(rule), name) is not getattr(Rule, name)]
    missing = [name for name in _TOGETHER if name not in own]
    if own and missing:
        raise InputError(
            f"{_origin(rule, where)}: {type(rule).__qualname__} has {' and '.join(own)}, but not "
            f"{' and '.join(missing)}",
            hint="The three belong together; their docstrings in base.py say what they return.",
        )


class CheckedRule(Rule):
    """A rule from outside this package, with every answer checked.

    Args:
        rule: The rule.
        where: The file or entry point that it comes from.
    """

    def __init__(self, rule: Rule, where: str) -> None:
        self._rule = rule
        self.origin = _origin(rule, where)
        self.treat_as = getattr(rule, "treat_as", "")
        for name in _FACTS:
            setattr(self, name, getattr(rule, name))

    def shape(self, site: Site) -> tuple[Shape, ...]:
        shapes: tuple[Shape, ...] = self._ask("shape", _is_shapes, site)
        if len(shapes) != site.tops:
            raise self._bad_answer("shape", f"{len(shapes)} shapes for {site.tops} tops")
        return shapes

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        shapes: tuple[Shape, ...] = self._ask("parameters", _is_shapes, site)
        return shapes

    def memory(self, site: Site, mode: Mode) -> Memory:
        memory: Memory = self._ask("memory", _is_memory, site, mode)
        self._check_sides("memory", memory, site)
        return memory

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        found: Memory = self._ask("cudnn", _is_memory, site, memory)
        self._check_sides("cudnn", found, site)
        return found

    def coupling(self, site: Site) -> Coupling:
        coupling: Coupling = self._ask("coupling", _is(Coupling), site)
        return coupling

    def inner(self, site: Site) -> Inner | None:
        unrolled: Inner | None = self._ask("inner", _is(Inner, type(None)), site)
        return unrolled

    def numbers(self, site: Site, bottom: int) -> Numbers:
        numbers: Numbers = self._ask("numbers", _is(Numbers), site, bottom)
        return numbers

    def labels(self, site: Site) -> Labels | None:
        found: Labels | None = self._ask("labels", _is(Labels, type(None)), site)
        return found

    def needs_shapes(self, bottoms: int) -> bool:
        return bool(self._ask("needs_shapes", _is(bool), bottoms))

    def given_shapes(self, settings: Any, tops: int) -> tuple[Given, ...]:
        shapes: tuple[Given, ...] = self._ask("given_shapes", _is(tuple), settings, tops)
        return shapes

    def batch_path(self, settings: Any) -> tuple[str | int, ...] | None:
        path: tuple[str | int, ...] | None = self._ask(
            "batch_path", _is(tuple, type(None)), settings
        )
        return path

    def batch_value(self, settings: Any, size: int) -> Any:
        return self._ask("batch_value", _is(int, str), settings, size)

    def any_batch(self, settings: Any) -> bool:
        return bool(self._ask("any_batch", _is(bool), settings))

    def literal_shapes(self, settings: Any) -> tuple[Shape, ...]:
        shapes: tuple[Shape, ...] = self._ask("literal_shapes", _is_shapes, settings)
        return shapes

    def with_literal_shapes(self, settings: Any, shapes: tuple[Shape, ...]) -> Any:
        kind = type(settings)
        return self._ask("with_literal_shapes", _is(kind), settings, shapes)

    def literal_path(self, settings: Any, shape: int, axis: int) -> tuple[str | int, ...]:
        path: tuple[str | int, ...] = self._ask("literal_path", _is(tuple), settings, shape, axis)
        return path

    def sizes_on_first_axis(self, settings: Any) -> tuple[tuple[str, int], ...]:
        sizes: tuple[tuple[str, int], ...] = self._ask("sizes_on_first_axis", _is(tuple), settings)
        return sizes

    def draws(self, settings: Any, phase: Phase) -> bool:
        return bool(self._ask("draws", _is(bool), settings, phase))

    def keeps_state(self, settings: Any) -> bool:
        return bool(self._ask("keeps_state", _is(bool), settings))

    def state_bottoms(self, settings: Any, bottoms: int) -> range:
        found: range = self._ask("state_bottoms", _is(range), settings, bottoms)
        return found

    def _ask(self, method: str, fits: Callable[[Any], bool], *given: Any) -> Any:
        """What the rule's method returns.

        Raises:
            InputError: It failed, or returned something else.
        """
        try:
            answer = getattr(self._rule, method)(*given)
        except CaffeBatchError:
            raise
        except Exception as error:
            place = _line_in(error, Path(self.origin.rpartition(":")[0] or self.origin))
            raise InputError(
                f"{place}: the rule for {self.type} failed in {method}: {_text(error)}", hint=_HINT
            ) from error
        if not fits(answer):
            raise self._bad_answer(method, repr(answer))
        return answer

    def _check_sides(self, method: str, memory: Memory, site: Site) -> None:
        """Refuses sides of blobs that don't exist."""
        buffers = {buffer.name for buffer in memory.buffers}
        pairs = (*memory.shares, *memory.backward_shares)
        touched = (*memory.build, *memory.forward, *memory.backward)
        numbers = {
            "bottom": len(site.bottoms), "top": site.tops, "param": len(site.param_need),
        }  # fmt: skip
        for side in (*touched, *(side for pair in pairs for side in pair)):
            if not isinstance(side, Side):
                raise self._bad_answer(method, f"{side!r} among the sides")
            if side.owner in numbers and not 0 <= side.number < numbers[side.owner]:
                raise self._bad_answer(method, f"{side.owner}({side.number}), which doesn't exist")
            if side.owner == "own" and side.name not in buffers:
                raise self._bad_answer(method, f"own({side.name!r}), which isn't among its buffers")

    def _bad_answer(self, method: str, what: str) -> InputError:
        place = _place_of(getattr(type(self._rule), method, None)) or self.origin
        return InputError(
            f"{place}: the rule for {self.type} returned {what} from {method}", hint=_HINT
        )


#: The class attributes of a rule.
_FACTS = tuple(name for name in Rule.__annotations__ if name != "origin")


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda answer: isinstance(answer, types)


def _is_shapes(answer: Any) -> bool:
    return isinstance(answer, tuple) and all(
        isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        for shape in answer
    )


def _is_memory(answer: Any) -> bool:
    numbers = ("transient", "at_most", "partial")
    return (
        isinstance(answer, Memory)
        and all(
            isinstance(getattr(answer, field.name), tuple)
            for field in fields(Memory)
            if field.name not in numbers
        )
        and all(
            type(number) is int and number >= 0 for number in (answer.transient, answer.at_most)
        )
        and all(
            isinstance(buffer, Buffer) and type(buffer.count) is int and buffer.count >= 0
            for buffer in answer.buffers
        )
    )


def _origin(rule: Rule, where: str) -> str:
    """File and line of a rule's class; ``where`` if it has no methods of its own."""
    methods = (value for value in vars(type(rule)).values() if isinstance(value, FunctionType))
    return next(filter(None, map(_place_of, methods)), where)


def _place_of(method: Any) -> str | None:
    code = getattr(method, "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _line_in(error: BaseException, path: Path) -> str:
    """Where a file failed: its last line in the traceback."""
    lines = _frames(error, path)
    return f"{path}:{lines[-1]}" if lines else str(path)


def _frames(error: BaseException, path: Path) -> list[int | None]:
    """The lines of a file in the traceback of an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if frame.filename == str(path)]


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _pass_on(error: BaseException) -> None:
    """Raises what isn't the file's own failure again; ``sys.exit()`` in a file is one."""
    if not isinstance(error, Exception | SystemExit):
        raise error


def _in_time(load: Callable[[], T], where: str) -> T:
    """What ``load`` returns or raises.

    It runs in a thread of its own, because only a thread can be left alone.

    Raises:
        InputError: It hasn't ended in time.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(load())
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name=f"loading {where}", daemon=True)
    thread.start()
    thread.join(LOADING_S)
    if thread.is_alive():
        raise InputError(
            f"{where}: importing it hasn't ended after {LOADING_S:g} s",
            hint="A file of rules only defines them; it does nothing by itself.",
        )
    if failed:
        raise failed[0]
    return done[0]
