"""Fields of a solver that count updates, and the words for their changes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from caffe_batch.errors import InputError, Option
from caffe_batch.planning.edits.changes import Change
from caffe_batch.schema import caffe_pb2

#: As many updates as Caffe can count (an int32).
MAX_UPDATES = 2**31 - 1


def set_field(
    solver: caffe_pb2.SolverParameter, name: str, value: Any, reason: str
) -> Iterator[Change]:
    """The change of a solver's field; empty if it already has that value."""
    before = getattr(solver, name)
    if before != value:
        given = any(field.name == name for field, _ in solver.ListFields())
        yield Change("solver", (name,), before if given else None, value, reason)


def whole_updates(field: str, exact: Fraction) -> int:
    """The nearest number of updates, at least one.

    Raises:
        InputError: More than Caffe can count (an int32).
    """
    if exact > MAX_UPDATES:
        raise InputError(
            f"{field} would be {float(exact):.3g} updates, more than Caffe can count",
            hint=[
                "Give fewer ",
                Option("epochs"),
                ", or a larger ",
                Option("effective_batch"),
                ".",
            ],
        )
    return max(1, round(exact))


def whole_or_never(exact: Fraction) -> int:
    """The nearest number of updates, at least one; as many as Caffe can count if it is more.

    A recipe with such an interval means "never".
    """
    return max(1, min(round(exact), MAX_UPDATES))


def epochs_text(epochs: Fraction) -> str:
    """The words that follow "every".

    >>> epochs_text(Fraction(1)), epochs_text(Fraction(5, 2))
    ('epoch', '2.5 epochs')
    """
    return "epoch" if epochs == 1 else f"{float(epochs):.4g} epochs"


def rounding(exact: Fraction) -> str:
    """What rounding does to a number of updates, to be added to a reason."""
    return "" if exact.denominator == 1 else f" ({float(exact):.2f} updates, rounded once)"
