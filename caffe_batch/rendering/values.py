"""The types of template variables, and how their values are read from text."""

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
            text.encode()  # fails for an argument that isn't UTF-8, which no prototxt may hold
            return text
    raise ValueError


def _anything(value: object) -> Scalar:
    """The value itself, or what its text looks like: a number, true or false, or else text."""
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
class VariableType:
    """The type of a template variable.

    Attributes:
        item: ``int``, ``float``, ``bool``, ``text`` or ``any``: type of the value, or of each
            value in a list. Undocumented variables are ``any``, which admits lists as well.
        is_list: Whether the variable is a list, written with commas.
        choices: The only values allowed; empty if all are.
    """

    item: str
    is_list: bool = False
    choices: tuple[Scalar, ...] = ()

    @classmethod
    def parse(cls, text: str) -> VariableType:
        """The type that a template's header names.

        >>> VariableType.parse("list of int")
        VariableType(item='int', is_list=True, choices=())
        >>> VariableType.parse("50 | 101 | 152").choices
        (50, 101, 152)

        Raises:
            ValueError: The text names no type.
        """
        if "|" in text:
            return cls("any", choices=tuple(_anything(part.strip()) for part in text.split("|")))
        is_list = text.startswith(_LIST_OF)
        item = text.removeprefix(_LIST_OF)
        if item not in _READERS:
            raise ValueError(f"{text!r} is not the type of a variable")
        return cls(item, is_list)

    def __str__(self) -> str:
        if self.choices:
            return " | ".join(show(choice) for choice in self.choices)
        return f"{_LIST_OF}{self.item}" if self.is_list else self.item

    def read(self, value: object) -> Value:
        """A value of this type, from text (as after ``-D name=``) or from Python.

        >>> VariableType.parse("list of int").read("300,400")
        (300, 400)
        >>> VariableType.parse("any").read("0.5"), VariableType.parse("any").read("train_lmdb")
        (0.5, 'train_lmdb')

        Raises:
            ValueError: The value is not of this type. (Without a message: the type itself says it.)
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
    """A value in the notation of ``-D name=`` and of prototxt.

    >>> show(True), show(0.005), show((104, 117, 123))
    ('true', '0.005', '104,117,123')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(show(part) for part in value)
    return str(value)
