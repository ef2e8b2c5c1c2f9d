"""Where a new field goes in a text, and how it is laid out to match its surroundings.

Pure functions on text and syntax tree; each returns a :class:`Splice` to apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caffe_batch.prototxt.syntax import Block, Field, Listing, Scalar

_INDENTED_LINE = re.compile(r"^[ \t]+(?=[A-Za-z_])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Splice:
    """Replaces ``text[start:end]``."""

    start: int
    end: int
    replacement: str


def apply(text: str, splices: Iterable[Splice]) -> str:
    """The text after replacements, which mustn't overlap; those at one place keep their order."""
    parts: list[str] = []
    done = 0
    for splice in sorted(splices, key=lambda splice: splice.start):
        parts += (text[done : splice.start], splice.replacement)
        done = splice.end
    return "".join(parts) + text[done:]


def insert_field(
    text: str, block: Block, names: Sequence[str], value: str, anchor: Field | None
) -> Splice:
    """Inserts ``name: value``, or nested messages if there are several names.

    Args:
        text: The whole text.
        block: The message that gets the field.
        names: The field and, if it is a message, the fields inside it down to the value's own.
        value: The value as it is written.
        anchor: The field to insert it after; None only for a message without fields.
    """
    is_file = block.start == 0 and block.end == len(text)
    if not is_file and "\n" not in text[block.start : block.end]:
        inline = _inline(names, value)
        if anchor:
            return Splice(anchor.end, anchor.end, f" {inline}")
        closing_space = "" if text[block.start + 1 : block.end - 1] else " "
        return Splice(block.start + 1, block.start + 1, f" {inline}{closing_space}")
    newline = "\r\n" if "\r\n" in text else "\n"
    unit = match[0] if (match := _INDENTED_LINE.search(text)) else "  "
    if anchor:
        line = _line_start(text, anchor.start)
        indent = _indent(text, line) + (unit if line <= block.start and not is_file else "")
        lines = newline + newline.join(_lines(names, value, indent, unit))
        rest_end = _line_end(text, anchor.end)
        rest = text[anchor.end : rest_end].strip()
        if rest and rest[0] not in "#}>":
            return Splice(anchor.end, anchor.end, f" {_inline(names, value)}")
        place = anchor.end if rest[:1] in ("}", ">") else rest_end
        return Splice(place, place, lines)
    if is_file:
        lead = newline if text.strip("\ufeff") and not text.endswith("\n") else ""
        body = newline.join(_lines(names, value, "", unit))
        return Splice(len(text), len(text), f"{lead}{body}{newline}")
    line = _line_start(text, block.end - 1)
    indent = _indent(text, _line_start(text, block.start)) + unit
    body = newline.join(_lines(names, value, indent, unit))
    return Splice(line, line, f"{body}{newline}")


def append_item(listing: Listing, names: Sequence[str], value: str) -> Splice:
    """Appends a value to a list or, if there are names, a message that holds the value."""
    item = f"{{ {_inline(names, value)} }}" if names else value
    if not listing.items:
        return Splice(listing.start + 1, listing.start + 1, item)
    end = listing.items[-1].end
    return Splice(end, end, f", {item}")


def remove_item(listing: Listing, item: Scalar | Block) -> Splice:
    """Removes one of several items from a list, with the comma beside it."""
    index = next(index for index, other in enumerate(listing.items) if other is item)
    if index:
        return Splice(listing.items[index - 1].end, item.end, "")
    return Splice(item.start, listing.items[1].start, "")


def remove_field(text: str, field: Field) -> Splice:
    """Removes a field: with its lines if nothing else is on them, else with the space after it."""
    line, rest_end = _line_start(text, field.start), _line_end(text, field.end)
    before, after = text[line : field.start], text[field.end : rest_end]
    if not before.strip("\ufeff \t") and not after.strip():
        newline = re.compile(r"\r?\n").match(text, rest_end)
        start = line + before.startswith("\ufeff")
        return Splice(start, newline.end() if newline else len(text), "")
    spaces = len(after) - len(after.lstrip(" \t"))
    return Splice(field.start, field.end + spaces, "")


def _inline(names: Sequence[str], value: str) -> str:
    opened = "".join(f"{name} {{ " for name in names[:-1])
    return f"{opened}{names[-1]}: {value}" + " }" * (len(names) - 1)


def _lines(names: Sequence[str], value: str, indent: str, unit: str) -> list[str]:
    indents = [indent + unit * depth for depth in range(len(names))]
    opened = [f"{space}{name} {{" for space, name in zip(indents, names[:-1], strict=False)]
    closed = [f"{space}}}" for space in reversed(indents[:-1])]
    return [*opened, f"{indents[-1]}{names[-1]}: {value}", *closed]


def _line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def _line_end(text: str, offset: int) -> int:
    """The end of a line, before its line ending."""
    end = text.find("\n", offset)
    if end < 0:
        return len(text)
    return end - 1 if end > offset and text[end - 1] == "\r" else end


def _indent(text: str, line: int) -> str:
    match = re.compile(r"\ufeff?([ \t]*)").match(text, line)
    return match[1] if match else ""
