"""Sides: the arrays of Caffe's blobs, as rules name them.

Each blob has a ``data`` and a ``diff`` array, allocated the first time it is touched on a device.
A rule names one through its blob: ``bottom(0).data``, ``top(1).diff``, ``param(0).data``,
``own("prob_").data`` for a buffer that the layer itself owns (under Caffe's own member name), or
``inner("c_0").diff`` for blob ``c_0`` of the net inside a recurrent layer.

>>> bottom(0).data
Side(owner='bottom', number=0, name='', is_diff=False)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

Owner = Literal["bottom", "top", "param", "own", "inner"]
Array = Literal["data", "diff"]


class Side(NamedTuple):
    """One array of one blob, as a layer sees it.

    Attributes:
        owner: Whose blob it is: a bottom, a top, a parameter, one of the layer's own buffers, or a
            blob of the net inside the layer.
        number: Which bottom, top or parameter; 0 for the others.
        name: Which buffer or inner blob; empty for the others.
        is_diff: Whether it is the diff; else it is the data.
    """

    owner: Owner
    number: int
    name: str
    is_diff: bool


class BlobSides(NamedTuple):
    """Both arrays of a blob."""

    data: Side
    diff: Side


def _sides_of(owner: Owner, number: int = 0, name: str = "") -> BlobSides:
    return BlobSides(Side(owner, number, name, False), Side(owner, number, name, True))


@cache
def bottom(number: int) -> BlobSides:
    """The layer's bottom of this number."""
    return _sides_of("bottom", number)


@cache
def top(number: int) -> BlobSides:
    """The layer's top of this number."""
    return _sides_of("top", number)


@cache
def param(number: int) -> BlobSides:
    """The layer's parameter of this number."""
    return _sides_of("param", number)


@cache
def own(name: str) -> BlobSides:
    """One of the layer's own buffers, under Caffe's member name."""
    return _sides_of("own", name=name)


@cache
def inner(name: str) -> BlobSides:
    """A blob of the net inside a recurrent layer, by its name there."""
    return _sides_of("inner", name=name)


def sides(blob: Callable[[int], BlobSides], number: int, array: Array) -> tuple[Side, ...]:
    """One array of each of the first blobs of a kind.

    >>> sides(bottom, 2, "diff") == (bottom(0).diff, bottom(1).diff)
    True
    """
    return tuple([getattr(blob(i), array) for i in range(number)])
