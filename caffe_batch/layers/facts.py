"""Where the data of a layer comes from, and which numbers a blob may hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SourceKind(str, Enum):
    """How the records of a source are stored; :mod:`caffe_batch.net.sources` reads them."""

    #: An LMDB or a LevelDB of Datums.
    DATABASE = "database"
    #: A text file with an image and a label on each line.
    IMAGE_LIST = "image list"
    #: A text file with the path of an HDF5 file on each line.
    HDF5_LIST = "HDF5 list"
    #: WindowData's text file of images and windows; only Caffe reads it.
    WINDOW_FILE = "window file"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data layer reads its records: the field ``source`` of its message says the path.

    Attributes:
        kind: How they are stored.
        record: What people call one of them.
        decides_all_tops: Whether it decides the shape of every top; else that of the first alone,
            and the others hold labels.
        shared_out: Whether each of G GPUs reads every Gth record (the layer's Skip); else each
            reads them all.
    """

    kind: SourceKind
    record: str = "record"
    decides_all_tops: bool = False
    shared_out: bool = False


class NumberKind(str, Enum):
    """How the numbers of a blob are made up; the scripts in the runtime know the same words."""

    #: Any number: uniform in [low, high).
    UNIFORM = "uniform"
    #: Any number: normal around low, with a standard deviation of high - low.
    NORMAL = "normal"
    #: A whole number from 0 to below a limit.
    INDEX = "index"
    #: Ones and zeros, with a one in every even place: marks, of which any batch has some.
    SELECTOR = "selector"
    #: 0 in the first time step, 1 in the others: each sequence begins with its batch.
    BEGIN = "begin"


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a blob may hold.

    Attributes:
        kind: How the numbers are made up.
        below: The limit of ``INDEX``.
        ignored: A number that stands in a quarter of the places as well (``ignore_label``).
        low, high: Limits of ``UNIFORM``; mean, and mean plus one deviation, of ``NORMAL``.
    """

    kind: NumberKind = NumberKind.UNIFORM
    below: int = 0
    ignored: int | None = None
    low: float = 0.0
    high: float = 1.0


#: What a bottom holds whose numbers may be any.
ANY_NUMBERS = Numbers()
