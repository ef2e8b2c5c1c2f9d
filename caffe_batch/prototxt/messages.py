"""Turns a syntax tree into a message, and a message into text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from caffe_batch.errors import Option, UnknownFieldError, did_you_mean
from caffe_batch.prototxt.syntax import Block, Listing, Scalar, Source, brief
from caffe_batch.prototxt.values import BadValueError, FieldRule, field_rules
from caffe_batch.schema.fork_fields import FORK_FIELDS


@dataclass(frozen=True, slots=True)
class Skipped:
    """A field that its message type, ``owner``, doesn't have, or a value that its enum doesn't.

    Attributes:
        owner: The message type.
        name: The field; with the value where that is what isn't known.
        offset: Where it is in the text.
        path: The field, from the whole message on.
        value: What is written there.
        is_value: Whether the field is known and the value isn't.
    """

    owner: str
    name: str
    offset: int
    path: tuple[str | int, ...]
    value: Scalar | Block | Listing
    is_value: bool = False


def fill(
    message: Message, tree: Block, source: Source, *, allow_unknown_fields: bool = False
) -> list[Skipped]:
    """Fills an empty message from the syntax tree of a text.

    Returns:
        The unknown fields and values that were skipped, in the order of the text.

    Raises:
        PrototxtError: The message doesn't have a field (unless that is allowed), a field can't hold
            its value or is given twice, or a required field is missing. Names line and column.
    """
    skipped: list[Skipped] | None = [] if allow_unknown_fields else None
    _fill(message, tree, source, skipped, ())
    return skipped or []


def _fill(
    message: Message,
    block: Block,
    source: Source,
    skipped: list[Skipped] | None,
    path: tuple[str | int, ...],
) -> None:
    known = field_rules(message.DESCRIPTOR)
    seen = set()
    for entry in block.fields:
        rule = known.get(entry.name)
        if rule is None:
            if skipped is None:
                raise unknown_field(
                    source,
                    f"{message.DESCRIPTOR.name} has no field {brief(entry.name)!r}",
                    entry.start,
                    _unknown_hint(entry.name, message),
                    "It may be a field of a fork of Caffe.",
                )
            skipped.append(
                Skipped(
                    message.DESCRIPTOR.name,
                    entry.name,
                    entry.start,
                    (*path, entry.name),
                    entry.value,
                )
            )
            continue
        value = entry.value
        if rule.repeated:
            items = _items(rule, value, source)
            target = getattr(message, rule.name)
            if rule.message is None:
                read = (_value(rule, item, source, message, skipped, path) for item in items)
                target.extend([value for value in read if value is not None])
            else:
                for item in items:
                    here = (*path, rule.name, len(target))
                    _fill(target.add(), _block(rule, item, source), source, skipped, here)
            continue
        if rule.name in seen:
            raise source.error(f"{rule.name} is given twice", entry.start, hint="Keep one of them.")
        seen.add(rule.name)
        if rule.message is None:
            single = _value(rule, value, source, message, skipped, path)
            if single is not None:
                setattr(message, rule.name, single)
        else:
            target = getattr(message, rule.name)
            target.SetInParent()
            here = (*path, rule.name)
            _fill(target, _block(rule, value, source), source, skipped, here)
    for rule in known.values():
        if rule.required and rule.name not in seen:
            raise source.error(f"{message.DESCRIPTOR.name} needs {rule.name}", block.start)


def _items(
    rule: FieldRule, value: Scalar | Block | Listing, source: Source
) -> list[Scalar | Block] | tuple[Scalar | Block]:
    if not isinstance(value, Listing):
        return (value,)
    if rule.message is None and not value.colon:
        raise source.error(f"expected ':' after {rule.name}, found '['", value.start)
    return value.items


def unknown_field(
    source: Source, message: str, offset: int, hint: str | None, of_fork: str
) -> UnknownFieldError:
    """The error about something that may be skipped.

    Args:
        source: The text.
        message: What isn't known.
        offset: Where it is.
        hint: What it may be meant to be; None if nothing is like it.
        of_fork: What it may be then.
    """
    line, column = source.position(offset)
    error = UnknownFieldError(
        message,
        path=source.path,
        line=line,
        column=column,
        hint=[f"{hint or of_fork} ", Option("allow_unknown_fields", True), " skips it."],
    )
    error.misspelled = hint is not None
    return error


def _value(
    rule: FieldRule,
    value: Scalar | Block | Listing,
    source: Source,
    message: Message,
    skipped: list[Skipped] | None,
    path: tuple[str | int, ...],
) -> Any:
    """A single value; None for one of an enum that Caffe 1.0 doesn't have, where it is skipped."""
    if not rule.is_enum or type(value) is not Scalar or value.kind != "word":
        return _scalar(rule, value, source)
    try:
        return rule.read(value)
    except BadValueError as error:
        is_type = (message.DESCRIPTOR.name, rule.name) == ("V1LayerParameter", "type")
        if error.hint and not is_type:  # a typing mistake
            raise source.error(error.message, value.start, hint=error.hint) from None
        if rule.required or skipped is None:
            of_fork = "It may be a value of a fork of Caffe."
            raise unknown_field(source, error.message, value.start, error.hint, of_fork) from None
    name, owner = f"{rule.name}: {value.text}", message.DESCRIPTOR.name
    skipped.append(Skipped(owner, name, value.start, (*path, rule.name), value, is_value=True))
    return None


def _scalar(rule: FieldRule, value: Scalar | Block | Listing, source: Source) -> Any:
    if type(value) is not Scalar:
        found = "a message" if isinstance(value, Block) else "a list"
        raise source.error(f"{rule.name} takes a single value, found {found}", value.start)
    try:
        return rule.read(value)
    except BadValueError as error:
        raise source.error(error.message, value.start, hint=error.hint) from None


def _block(rule: FieldRule, value: Scalar | Block | Listing, source: Source) -> Block:
    if not isinstance(value, Block):
        raise source.error(
            f"{rule.name} takes a message",
            value.start,
            hint=f"Write {rule.name} {{ ... }}.",
        )
    return value


def _unknown_hint(name: str, message: Message) -> str | None:
    """Where a field that the message doesn't have may belong, or how it may be spelled."""
    owner = message.DESCRIPTOR

    def has(kind: str) -> bool:
        return name in field_rules(owner.file.message_types_by_name[kind])

    files = ("NetParameter", "SolverParameter")
    if owner.name in files and any(map(has, files)):
        return f"It is a field of {next(filter(has, files))}: is this the right file?"
    if owner.name == "LayerParameter" and name != "layer" and has("V1LayerParameter"):
        return "It belongs to the old syntax: layers { ... }."
    outside = [kind for kind in ("LayerParameter", "NetParameter") if has(kind)]
    if outside and owner.name not in files:
        return f"It is a field of {outside[0]}: is a '}}' missing above?"
    groups = [rule for rule in field_rules(owner).values() if rule.message]
    inside = [rule.name for rule in groups if name in field_rules(rule.message)]
    caffes = [each for each in inside if f"{owner.name}.{each}" not in FORK_FIELDS]
    if inside:
        return f"It belongs inside {' or '.join(caffes or inside)}."
    return did_you_mean(name, list(field_rules(owner)))


def write(message: Message) -> str:
    """The text of a net or solver as Caffe writes it: one field per line, indented by two spaces.

    Floats are as short as possible while still reading back as the same value.
    """
    return "".join(_lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    known = field_rules(message.DESCRIPTOR)
    for descriptor, value in message.ListFields():
        rule = known[descriptor.name]
        for item in value if rule.repeated else (value,):
            if rule.message is None:
                yield f"{indent}{rule.name}: {rule.write(item)}\n"
            else:
                yield f"{indent}{rule.name} {{\n"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}\n"
