"""Where the data of a layer comes from, which numbers a blob may hold, and what it overwrites."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Copies(Enum):
    """Whether the tops of a layer hold only values of its bottoms."""

    #: No: the layer reads or computes its values.
    NOTHING = "nothing"
    #: Yes, in the same order within each top.
    IN_ORDER = "in order"
    #: Yes, but only some of them, or in another order.
    SOME = "some"


class ReadsTop(Enum):
    """When Caffe's Backward reads the layer's own top, so that nothing may overwrite it before."""

    NEVER = "never"
    #: If the top is the bottom as well, for it needs the values of its bottom.
    IN_PLACE = "in place"
    ALWAYS = "always"


class Arithmetic(Enum):
    """What most of a layer's work is, for the libraries that have routines for it."""

    OTHER = "other"
    #: A product of two matrices.
    PRODUCT = "product"
    #: A convolution, or its transpose.
    CONVOLUTION = "convolution"


class SourceKind(str, Enum):
    """How the records of a source are stored; :mod:`caffe_batch.net.sources` reads them."""

    #: An LMDB or LevelDB of Datums.
    DATABASE = "database"
    #: A text file with an image and a label on each line.
    IMAGE_LIST = "image list"
    #: A text file with the path of an HDF5 file on each line.
    HDF5_LIST = "HDF5 list"
    #: WindowData's text file of images and windows; only Caffe reads it.
    WINDOW_FILE = "window file"
    #: An LMDB or LevelDB of a fork's own messages.
    ANNOTATED = "annotated database"
    #: A text file with two images on each line, the second one of labels.
    IMAGE_PAIRS = "list of image pairs"
    #: A video, a camera, or a list of videos.
    VIDEO = "videos"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data layer reads its records: the field ``source`` of its message is the path.

    Attributes:
        kind: How they are stored.
        record: What one of them is called.
        decides_all_tops: Whether it decides the shape of every top; if not, only that of the
            first, and the others hold labels.
        shared_out: Whether each of G GPUs reads every Gth record (the layer's Skip); if not, each
            reads all of them.
    """

    kind: SourceKind
    record: str = "record"
    decides_all_tops: bool = False
    shared_out: bool = False


class NumberKind(str, Enum):
    """How the numbers of a blob are generated; the scripts in the runtime use the same words."""

    #: Any number: uniform in [low, high).
    UNIFORM = "uniform"
    #: Any number: normal around low, with a standard deviation of high - low.
    NORMAL = "normal"
    #: A whole number from 0 up to, but not including, a limit.
    INDEX = "index"
    #: Ones and zeros, with a one in every even place: markers, so that any batch has some.
    SELECTOR = "selector"
    #: 0 in the first time step, 1 in the others: each sequence begins with its batch.
    BEGIN = "begin"


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a blob may hold.

    Attributes:
        kind: How the numbers are generated.
        below: The limit of ``INDEX``.
        ignored: A number that is put in a quarter of the places as well (``ignore_label``).
        low, high: Limits of ``UNIFORM``; for ``NORMAL`` the mean, and the mean plus one standard
            deviation.
    """

    kind: NumberKind = NumberKind.UNIFORM
    below: int = 0
    ignored: int | None = None
    low: float = 0.0
    high: float = 1.0


#: For a bottom that may hold any numbers.
ANY_NUMBERS = Numbers()
