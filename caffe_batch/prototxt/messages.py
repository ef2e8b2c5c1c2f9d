"""From syntax tree to message, and from message to text."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from caffe_batch.errors import did_you_mean
from caffe_batch.prototxt.syntax import Block, Field, Listing, Scalar, Source, brief
from caffe_batch.prototxt.values import BadValueError, Rule, rules

AnyMessage = TypeVar("AnyMessage", bound=Message)


class PrototxtWarning(UserWarning):
    """Something in a file that is left out, as Caffe does or as the caller asked.

    Attributes:
        path: The file as the user named it, or None.
        line: 1-based, or None where the place is not known.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


def fill_message(
    message: Message, tree: Block, source: Source, *, allow_unknown_fields: bool = False
) -> None:
    """Puts what a text says into an empty message.

    Raises:
        PrototxtError: A field that the message lacks, a value that a field can't hold, a field
            given twice, a required field not given. Names line and column.

    Warns:
        PrototxtWarning: One for each name of skipped fields, given ``allow_unknown_fields``.
    """
    unknown = _Unknown(allowed=allow_unknown_fields)
    _fill(message, tree, source, unknown)
    for (owner, name), offsets in unknown.offsets.items():
        times = f" ({len(offsets)} times)" if len(offsets) > 1 else ""
        line, _ = source.position(offsets[0])
        text = f"skipped {brief(name)}{times}: {owner} of Caffe 1.0 has no such field"
        warnings.warn(PrototxtWarning(text, path=source.path, line=line), stacklevel=4)


@dataclass(slots=True)
class _Unknown:
    """What to do with fields that a message lacks, and where they were.

    Attributes:
        offsets: (message type, field name) -> where each of them starts.
    """

    allowed: bool
    offsets: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def meet(self, stranger: Field, message: Message, source: Source) -> None:
        """Notes an unknown field, or refuses it."""
        owner = message.DESCRIPTOR
        if not self.allowed:
            raise source.error(
                f"{owner.name} has no field {brief(stranger.name)!r}",
                stranger.start,
                hint=f"{_unknown_hint(stranger.name, message)} "
                "With --allow-unknown-fields it is skipped.",
            )
        self.offsets.setdefault((owner.name, stranger.name), []).append(stranger.start)


def _fill(message: Message, block: Block, source: Source, unknown: _Unknown) -> None:
    known = rules(message.DESCRIPTOR)
    seen = set()
    for entry in block.fields:
        rule = known.get(entry.name)
        if rule is None:
            unknown.meet(entry, message, source)
            continue
        value = entry.value
        if rule.repeated:
            items = _items(rule, value, source)
            target = getattr(message, rule.name)
            if rule.message is None:
                target.extend([_scalar(rule, item, source) for item in items])
            else:
                for item in items:
                    _fill(target.add(), _block(rule, item, source), source, unknown)
            continue
        if rule.name in seen:
            raise source.error(f"{rule.name} is given twice", entry.start, hint="Keep one of them.")
        seen.add(rule.name)
        if rule.message is None:
            setattr(message, rule.name, _scalar(rule, value, source))
        else:
            target = getattr(message, rule.name)
            target.SetInParent()
            _fill(target, _block(rule, value, source), source, unknown)
    for rule in known.values():
        if rule.required and rule.name not in seen:
            raise source.error(f"{message.DESCRIPTOR.name} needs {rule.name}", block.start)


def _items(
    rule: Rule, value: Scalar | Block | Listing, source: Source
) -> list[Scalar | Block] | tuple[Scalar | Block]:
    if not isinstance(value, Listing):
        return (value,)
    if rule.message is None and not value.colon:
        raise source.error(f"expected ':' after {rule.name}, found '['", value.start)
    return value.items


def _scalar(rule: Rule, value: Scalar | Block | Listing, source: Source) -> Any:
    if type(value) is not Scalar:
        found = "a message" if isinstance(value, Block) else "a list"
        raise source.error(f"{rule.name} takes a single value, found {found}", value.start)
    try:
        return rule.read(value)
    except BadValueError as error:
        raise source.error(error.message, value.start, hint=error.hint) from None


def _block(rule: Rule, value: Scalar | Block | Listing, source: Source) -> Block:
    if not isinstance(value, Block):
        raise source.error(
            f"{rule.name} takes a message",
            value.start,
            hint=f"Write {rule.name} {{ ... }}.",
        )
    return value


def _unknown_hint(name: str, message: Message) -> str:
    """Where a field that a message lacks may belong, or how it may be spelled."""
    owner = message.DESCRIPTOR

    def has(kind: str) -> bool:
        return name in rules(owner.file.message_types_by_name[kind])

    files = ("NetParameter", "SolverParameter")
    if owner.name in files and any(map(has, files)):
        return f"It is a field of {next(filter(has, files))}: is this the right file?"
    if owner.name == "LayerParameter" and name != "layer" and has("V1LayerParameter"):
        return "It is of the old syntax: layers { ... }."
    outside = [kind for kind in ("LayerParameter", "NetParameter") if has(kind)]
    if outside and owner.name not in files:
        return f"It is a field of {outside[0]}: is a '}}' missing above?"
    groups = [rule for rule in rules(owner).values() if rule.message]
    inside = [rule.name for rule in groups if name in rules(rule.message)]
    if inside:
        return f"It belongs inside {' or '.join(inside)}."
    return did_you_mean(name, list(rules(owner))) or "It may be a field of a fork of Caffe."


def write(message: Message) -> str:
    """The text of a net or solver as Caffe writes it: two spaces, one field a line.

    Floats are as short as they can be and still read back the same.
    """
    return "".join(_lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    known = rules(message.DESCRIPTOR)
    for descriptor, value in message.ListFields():
        rule = known[descriptor.name]
        for item in value if rule.repeated else (value,):
            if rule.message is None:
                yield f"{indent}{rule.name}: {rule.write(item)}\n"
            else:
                yield f"{indent}{rule.name} {{\n"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}\n"
