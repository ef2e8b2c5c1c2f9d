"""What values a template variable takes, and how they are read from text."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]

_TRUTH = {"true": True, "false": False}


def _whole_number(value: object) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _number(value: object) -> int | float:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise ValueError


def _truth(value: object) -> bool:
    if isinstance(value, str):
        value = _TRUTH.get(value.lower())
    if isinstance(value, bool):
        return value
    raise ValueError


def _text(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str):
            text.encode()  # an argument that is not UTF-8 has no place in a prototxt
            return text
    raise ValueError


def _anything(value: object) -> Scalar:
    """The value itself, or what its text looks like: a number, true or false, else text."""
    for read in (_number, _truth, _text):
        try:
            return read(value)
        except ValueError:
            continue
    raise ValueError


_READERS: dict[str, Callable[[object], Scalar]] = {
    "int": _whole_number,
    "float": _number,
    "bool": _truth,
    "text": _text,
    "any": _anything,
}
_LIST_OF = "list of "


@dataclass(frozen=True)
class Kind:
    """The type of a template variable.

    Attributes:
        item: ``int``, ``float``, ``bool``, ``text`` or ``any``: type of the value, or of each
            value of a list. ``any`` is that of undocumented variables; it may be a list as well.
        is_list: Whether the variable is a list, written with commas.
        choices: The only values allowed; empty means all.
    """

    item: str
    is_list: bool = False
    choices: tuple[Scalar, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Kind:
        """A kind as a template's header writes it.

        >>> Kind.parse("list of int")
        Kind(item='int', is_list=True, choices=())
        >>> Kind.parse("50 | 101 | 152").choices
        (50, 101, 152)

        Raises:
            ValueError: The text names no kind.
        """
        if "|" in text:
            return cls("any", choices=tuple(_anything(part.strip()) for part in text.split("|")))
        is_list = text.startswith(_LIST_OF)
        item = text.removeprefix(_LIST_OF)
        if item not in _READERS:
            raise ValueError(f"{text!r} is no type of a variable")
        return cls(item, is_list)

    def __str__(self) -> str:
        if self.choices:
            return " | ".join(show(choice) for choice in self.choices)
        return f"{_LIST_OF}{self.item}" if self.is_list else self.item

    def read(self, value: object) -> Value:
        """A value of this kind from text (as after ``-D name=``) or from Python.

        >>> Kind.parse("list of int").read("300,400"), Kind.parse("bool").read("true")
        ((300, 400), True)
        >>> Kind.parse("any").read("0.5"), Kind.parse("any").read("train_lmdb")
        (0.5, 'train_lmdb')

        Raises:
            ValueError: The value is not of this kind. (Without a message: `str(kind)` is one.)
        """
        reader = _READERS[self.item]
        if isinstance(value, str) and (self.is_list or (self.item == "any" and "," in value)):
            value = [part.strip() for part in value.split(",")] if value.strip() else []
        if isinstance(value, Sequence) and not isinstance(value, str):
            if self.is_list or (self.item == "any" and not self.choices):
                return tuple(reader(part) for part in value)
            raise ValueError
        if self.is_list:
            return (reader(value),)
        result = reader(value)
        if self.choices and result not in self.choices:
            raise ValueError
        return result


def show(value: Value) -> str:
    """A value as it is written after ``-D name=`` and in prototxt.

    >>> show(True), show(0.005), show((104, 117, 123))
    ('true', '0.005', '104,117,123')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(show(part) for part in value)
    return str(value)
