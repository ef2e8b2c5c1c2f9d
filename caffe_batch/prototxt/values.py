"""Converts single values between the text of a prototxt and the fields of a message.

Each field gets a :class:`FieldRule`, made from its descriptor: how a
:class:`~caffe_batch.prototxt.syntax.Scalar` is read (with the types, ranges and spellings of the
C++ parser) and how a value is written.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from caffe_batch.errors import did_you_mean
from caffe_batch.prototxt.syntax import Scalar, brief

_INTEGER = re.compile(
    r"(-?)(?:0[xX](?P<hex>[0-9A-Fa-f]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*))"
)
_BASES = {"hex": 16, "octal": 8, "decimal": 10}
_NOT_DECIMAL = re.compile(r"-?0[0-9xX]")
_INFINITE = {sign + word for sign in ("", "-") for word in ("inf", "infinity", "nan")}
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_ESCAPES = {chr(code): f"\\{code:03o}" for code in (*range(32), 127)}
_ESCAPES |= {'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_ESCAPED = str.maketrans(_ESCAPES)


class BadValueError(ValueError):
    """A field can't hold a value; the caller knows the place and reports it to the user."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How one field is read and written.

    Attributes:
        message: The type of the messages it holds; None if it holds single values.
        read: Turns a Scalar into a value; raises BadValueError.
        write: Turns a value into text; raises BadValueError.
        default: The field's value where it isn't given; None for messages.
        is_enum: Whether its values are the names of an enum.
    """

    name: str
    repeated: bool
    required: bool
    message: Descriptor | None
    read: Callable[[Scalar], Any]
    write: Callable[[Any], str]
    default: Any
    is_enum: bool = False


@cache
def field_rules(descriptor: Descriptor) -> dict[str, FieldRule]:
    """The rules of a message type, by field name."""
    return {field.name: _rule(field) for field in descriptor.fields}


def _rule(field: FieldDescriptor) -> FieldRule:
    read, write = _codec(field)
    if hasattr(field, "is_repeated"):  # protobuf 6.31 and later
        repeated, required = field.is_repeated, field.is_required
    else:
        label = field.label  # type: ignore[attr-defined]  # no longer in the stubs
        repeated = label == FieldDescriptor.LABEL_REPEATED
        required = label == FieldDescriptor.LABEL_REQUIRED
    return FieldRule(
        name=field.name,
        repeated=repeated,
        required=required,
        message=field.message_type,
        read=read,
        write=write,
        default=None if field.message_type else field.default_value,
        is_enum=field.enum_type is not None,
    )


def _codec(field: FieldDescriptor) -> tuple[Callable[[Scalar], Any], Callable[[Any], str]]:
    kind, name = field.cpp_type, field.name
    if kind in _RANGES:
        return _integer_codec(name, *_RANGES[kind])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _float_codec(name, single=kind == FieldDescriptor.CPPTYPE_FLOAT)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _bool_codec(name)
    if field.enum_type is not None:
        return _enum_codec(name, {value.name: value.number for value in field.enum_type.values})
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _string_codec(name)
    return _message_codec(name)


def _wrong(name: str, expected: str, scalar: Scalar) -> BadValueError:
    text, hint = brief(scalar.text), None
    found = repr(text)
    if scalar.kind == "string":
        found, hint = f"the string {_quote(text)}", "Write it without quotes."
    elif expected == "a string":
        hint = f"Write it in quotes: {name}: {_quote(text)}"
    return BadValueError(f"{name} takes {expected}, found {found}", hint=hint)


def _integer(scalar: Scalar) -> int | None:
    """The integer that a number represents (decimal, 0x hexadecimal, 0 octal), or None."""
    match = _INTEGER.fullmatch(scalar.text) if scalar.kind == "number" else None
    if match is None:
        return None
    kind = str(match.lastgroup)
    # 25 digits exceed every range in every base; more would only cost time.
    value = int(match[kind].lstrip("0")[:25] or "0", _BASES[kind])
    return -value if match[1] else value


def _integer_codec(
    name: str, low: int, high: int
) -> tuple[Callable[[Scalar], int], Callable[[Any], str]]:
    expected = "an integer" if low < 0 else "a non-negative integer"

    def read(scalar: Scalar) -> int:
        value = _integer(scalar)
        if value is None or (low == 0 and scalar.text[0] == "-"):  # C++ refuses -0 as well
            raise _wrong(name, expected, scalar)
        if not low <= value <= high:
            raise BadValueError(f"{name} takes {low} to {high}, found {brief(scalar.text)}")
        return value

    def write(value: Any) -> str:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise BadValueError(f"{name} takes {expected}, not {value!r}")
        if not low <= operator.index(value) <= high:
            raise BadValueError(f"{name} takes {low} to {high}, not {value!r}")
        return str(operator.index(value))

    return read, write


def _float_codec(
    name: str, *, single: bool
) -> tuple[Callable[[Scalar], float], Callable[[Any], str]]:
    def read(scalar: Scalar) -> float:
        text = scalar.text
        if scalar.kind == "number" and not _NOT_DECIMAL.match(text):
            return float(text.rstrip("fF"))
        if scalar.kind == "word" and text.lower() in _INFINITE:
            return float(text)
        raise _wrong(name, "a decimal number", scalar)

    def write(value: Any) -> str:
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise BadValueError(f"{name} takes a number, not {value!r}")
        return format_float(float(value), single=single)

    return read, write


def format_float(value: float, *, single: bool) -> str:
    """The shortest decimal that reads back as the same float32 (``single``) or float64.

    >>> format_float(0.009999999776482582, single=True), format_float(1.0, single=True)
    ('0.01', '1')
    """
    if single:
        value = _as_single(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"
    if not single or not math.isfinite(value):
        return repr(value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next(text for text in texts if _as_single(float(text)) == value)


def _as_single(value: float) -> float:
    """The nearest float32; infinite if out of range, as in C++."""
    try:
        (single,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(single)


def _bool_codec(name: str) -> tuple[Callable[[Scalar], bool], Callable[[Any], str]]:
    def read(scalar: Scalar) -> bool:
        value = _integer(scalar)
        if scalar.kind == "word" and scalar.text in _BOOLS:
            return _BOOLS[scalar.text]
        if value in (0, 1) and scalar.text[0] != "-":
            return bool(value)
        raise _wrong(name, "true or false", scalar)

    def write(value: Any) -> str:
        if not isinstance(value, bool):
            raise BadValueError(f"{name} takes True or False, not {value!r}")
        return "true" if value else "false"

    return read, write


def _enum_codec(
    name: str, numbers: dict[str, int]
) -> tuple[Callable[[Scalar], int], Callable[[Any], str]]:
    names = {number: word for word, number in reversed(numbers.items())}
    words = ", ".join(numbers)

    def read(scalar: Scalar) -> int:
        value = numbers.get(scalar.text) if scalar.kind == "word" else _integer(scalar)
        if value is not None and value in names:
            return value
        problem = _wrong(name, f"one of {words}", scalar)
        problem.hint = did_you_mean(scalar.text.upper(), list(numbers)) or problem.hint
        raise problem

    def write(value: Any) -> str:
        word = names.get(value) if isinstance(value, int) else value
        if not isinstance(word, str) or word not in numbers:
            raise BadValueError(f"{name} takes one of {words}, not {value!r}")
        return word

    return read, write


def _string_codec(name: str) -> tuple[Callable[[Scalar], str], Callable[[Any], str]]:
    def read(scalar: Scalar) -> str:
        if scalar.kind != "string":
            raise _wrong(name, "a string", scalar)
        return checked(scalar.text)

    def write(value: Any) -> str:
        if not isinstance(value, str):
            raise BadValueError(f"{name} takes a string, not {value!r}")
        return _quote(checked(value))

    def checked(text: str) -> str:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise BadValueError(
                f"{name} contains bytes that are not UTF-8: {brief(text)!r}",
                hint="Save the file as UTF-8.",
            )
        return text

    return read, write


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPED)}"'


def _message_codec(name: str) -> tuple[Callable[[Scalar], Any], Callable[[Any], str]]:
    def read(scalar: Scalar) -> Any:
        raise BadValueError(
            f"{name} takes a message: {name} {{ ... }}, found {brief(scalar.text)!r}"
        )

    def write(value: Any) -> str:
        raise BadValueError(
            f"{name} is a message, not a single value", hint="Name one of its fields."
        )

    return read, write
