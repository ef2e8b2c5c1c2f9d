"""Turns arguments as users write them, on a command line or in Python, into values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

from caffe_batch.errors import InputError, Option, did_you_mean
from caffe_batch.layers.given import Given, WholeShape, spelled

#: A share (``"5%"`` or 0.05) or a number of epochs (``"0.5"``), kept as it was written.
Number = str | int | float | Fraction

#: The sizes of records by top: ``{"data": (3, 256, 256)}``, or ``"data=3x256x256"``, or several;
#: whole shapes, with their first axis, as text: ``{"rois": "128x5"}``, ``"data:Nx3x256x256"``.
Shapes = Mapping[str, Sequence[int] | WholeShape | str] | str | Iterable[str]

#: One or more files: a path, paths with commas between them, or several of them.
Files = str | Path | Iterable[str | Path]

#: The builds of Caffe whose memory can be predicted.
BuildName = Literal["caffe", "cudnn", "nvcaffe"]

Choice = TypeVar("Choice", bound=Enum)

#: The placeholders for sizes in messages.
_LETTERS = re.compile(r"(?:^|x)[CHWR](?:x|$)")
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def whole(name: str, value: int | None, least: int = 1) -> int | None:
    """A whole number that is large enough, or None.

    Raises:
        InputError: It isn't a whole number, or is below ``least``.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            [Option(name), f" is {value!r}, but must be a whole number of at least {least}"],
            hint=["For instance ", Option(name, least), "."],
        )
    return value


def share(name: str, value: Number) -> Fraction:
    """A share of one, below one: from ``"5%"``, or from a number such as 0.05.

    >>> share("tolerance", "5%"), share("tolerance", 0.05)
    (Fraction(1, 20), Fraction(1, 20))

    Raises:
        InputError: It is neither.
    """
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if percent:
        found = Fraction(percent[1]) / 100
    elif isinstance(value, str):
        found = Fraction(-1)
    else:
        found = _fraction(value, otherwise=-1)
    if not 0 <= found < 1:
        raise InputError(
            [Option(name), f": {value!r} is not a share below 100%, such as 5%"],
            hint=["For instance ", Option(name, "5%"), "."],
        )
    return found


def positive(name: str, value: Number | None) -> Fraction | None:
    """A number of epochs above zero, as it was written: 0.1 is a tenth.

    Raises:
        InputError: It isn't a number above zero.
    """
    if value is None:
        return None
    found = _fraction(value, otherwise=0)
    if found <= 0:
        raise InputError(
            [Option(name), f": {value!r} is not a number of epochs above 0"],
            hint=["For instance ", Option(name, 10), "."],
        )
    return found


def _fraction(value: Number, otherwise: int) -> Fraction:
    """A number as it was written; ``otherwise`` if it isn't a finite number."""
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return Fraction(otherwise)


def choice(name: str, value: str, of: type[Choice]) -> Choice:
    """The member of an enumeration that has this value.

    Raises:
        InputError: No member has it.
    """
    try:
        return of(value)
    except ValueError:
        known = [str(each.value) for each in of]
        raise InputError(
            [Option(name), f": there is no {value!r}"],
            hint=did_you_mean(str(value), known) or f"There are {', '.join(known)}.",
        ) from None


def several(value: str | Iterable[str]) -> tuple[str, ...]:
    """One or several words, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def files(value: Files | None) -> tuple[Path, ...]:
    """The paths of one or more files.

    >>> [path.name for path in files("a.caffemodel,b.caffemodel")]
    ['a.caffemodel', 'b.caffemodel']
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(Path(name) for name in value.split(",") if name)
    return (value,) if isinstance(value, Path) else tuple(map(Path, value))


def shapes(value: Shapes) -> dict[str, Given]:
    """Shapes by top: that of a record after an equals sign, a whole shape after a colon.

    >>> shapes("data=3x227x227"), shapes({"data": (3, 227, 227)})
    ({'data': (3, 227, 227)}, {'data': (3, 227, 227)})
    >>> [str(shape) for shape in shapes(["rois:128x5", "words:26xN"]).values()]
    ['128x5', '26xN']

    Raises:
        InputError: Not of that form, a size of 0, or a top named twice.
    """
    if isinstance(value, Mapping):
        value = [
            f"{top}:{sizes}" if isinstance(sizes, str | WholeShape) else spelled(top, tuple(sizes))
            for top, sizes in value.items()
        ]
    found: dict[str, Given] = {}
    for text in several(value):
        match = _GIVEN.fullmatch(text)
        shape = None if match is None else _shape(match["sign"], match["sizes"])
        if match is not None and shape is None and _LETTERS.search(match["sizes"]):
            sign = match["sign"]
            sample = f"{match['top']}{sign}{'3x256x256' if sign == '=' else '128x5'}"
            raise InputError(
                [Option("input_shape"), f" {text!r} still has letters where numbers belong"],
                hint=[
                    "C stands for channels, H for the height, W for the width, R for rows; for "
                    "instance ", Option("input_shape", sample), ".",
                ],
            )  # fmt: skip
        if match is None or shape is None:
            raise InputError(
                [Option("input_shape"), f" {text!r} is not of the form TOP=CxHxW"],
                hint=[
                    "For instance ", Option("input_shape", "data=3x256x256"),
                    ": channels, height, width. A shape with its first axis follows a colon, with "
                    "N for the batch: rois:128x5, data:Nx3x256x256.",
                ],
            )  # fmt: skip
        if match["top"] in found:
            raise InputError(
                [Option("input_shape"), f" names top {match['top']!r} twice"],
                hint="Give it once.",
            )
        found[match["top"]] = shape
    return found


#: A top, the sign, and the numbers; a top's name may contain either sign.
_GIVEN = re.compile(r"(?P<top>.+)(?P<sign>[=:])(?P<sizes>[^=:]*)", re.DOTALL)


def _shape(sign: str, sizes: str) -> Given | None:
    """The shape that a string means; None if it hasn't that form."""
    if sign == ":":
        try:
            return WholeShape.parse(sizes)
        except ValueError:
            return None
    numbers = sizes.lower().split("x") if sizes else []
    return tuple(map(int, numbers)) if all(map(_is_size, numbers)) else None


def _is_size(text: str) -> bool:
    """Whether a string is the size of an axis, with no more digits than a Blob's axis can need."""
    return text.isdecimal() and len(text) <= 19 and int(text) > 0
