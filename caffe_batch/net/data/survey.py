"""What the readers of all kinds of sources return: sizes, extreme values, and what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffe_batch.layers.base import Shape
from caffe_batch.net.data.findings import Place, Progress, Tally

#: Finds a file that a source names, or raises an InputError.
Find = Callable[[str], Path]

#: How many records of a source a quick look reads.
SAMPLE = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """Values of a data layer's top that some layer reads as labels.

    Attributes:
        top: Which top.
        ignore: A value that doesn't count, or None.
        region: (axis of the record, first, last + 1) for each axis that is read only in part.
    """

    top: int
    ignore: int | None = None
    region: tuple[tuple[int, int, int], ...] = ()


@dataclass(slots=True)
class Extremes:
    """The lowest and the highest value seen, and where. NaN counts as the lowest."""

    low: float = math.inf
    high: float = -math.inf
    low_place: Place | None = None
    high_place: Place | None = None

    def see(self, value: float, place: Place) -> None:
        """Take a value in."""
        value = -math.inf if math.isnan(value) else value
        if value < self.low:
            self.low, self.low_place = value, place
        if value > self.high:
            self.high, self.high_place = value, place


@dataclass(slots=True)
class Survey:
    """What is in a source, as far as it was read.

    Attributes:
        records: How many there are.
        read: How many of them were read.
        sizes: Every shape of a record of the first top, with the first record that has it.
        shapes: Shape of the largest record, one for each top that the source decides.
        file_rows: HDF5 only: rows of the largest file.
        extremes: Those of the values that were asked for.
        tally: What is wrong with it.
        note: What could not be checked, in a sentence; may be empty.
        estimated: Whether ``records`` is only what those that were read make likely.
    """

    records: int = 0
    read: int = 0
    sizes: dict[Shape, Place] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    file_rows: int | None = None
    extremes: dict[Wanted, Extremes] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    note: str = ""
    estimated: bool = False

    def see(self, wanted: Wanted, value: float, place: Place) -> None:
        """Take in a value that was asked for."""
        if wanted.ignore is None or not math.isfinite(value) or int(value) != wanted.ignore:
            self.extremes.setdefault(wanted, Extremes()).see(value, place)


@dataclass(frozen=True, slots=True)
class Task:
    """What a reader should read.

    Attributes:
        wanted: The values that some layer reads as labels.
        complete: Whether to read everything instead of a sample.
        progress: Called from time to time with how far the reader has come.
    """

    wanted: Sequence[Wanted]
    complete: bool
    progress: Progress


def evenly(number: int, most: int) -> list[int]:
    """At most ``most`` indices below ``number``, evenly spread, including the first and the last.

    >>> evenly(10, 4)
    [0, 3, 6, 9]
    """
    if number <= most:
        return list(range(number))
    return sorted({step * (number - 1) // (most - 1) for step in range(most)})
