"""How pictures become records: what a user chooses, checked."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from caffe_batch.errors import InputError, Option

Fit = Literal["squash", "crop", "pad"]
EncodeType = Literal["jpg", "png"]

#: The longest side of a record. OpenCV takes no more, and Caffe decodes with it.
LONGEST_SIDE = 1 << 15


@dataclass(frozen=True)
class Settings:
    """How pictures become records.

    Attributes:
        resize: Height and width of all records; None leaves the pictures as they are.
        fit: What happens to the proportions: ``squash`` ignores them (as convert_imageset does),
            ``crop`` cuts off what is too long, ``pad`` adds black.
        keep_sizes: Accept pictures of different sizes without resizing.
        gray: One channel instead of three.
        encoded: Store image files instead of pixels.
        encode_type: Their format; None keeps that of a JPEG or PNG file and takes PNG for others.
        shuffle: Mix the training records; otherwise they are in the order of the source.
        seed: Of the split and of the mixing.
        test_share: The share of each class that becomes the test set, where the source has none.
        drop_duplicates: Leave out test pictures that the training set has as well.
    """

    resize: tuple[int, int] | None = None
    fit: Fit = "squash"
    keep_sizes: bool = False
    gray: bool = False
    encoded: bool = False
    encode_type: EncodeType | None = None
    shuffle: bool = True
    seed: int = 0
    test_share: Fraction = Fraction(1, 5)
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        if self.resize and not all(1 <= side <= LONGEST_SIDE for side in self.resize):
            raise InputError(
                [Option("resize"), f" takes sides of 1 to {LONGEST_SIDE:,} pixels"],
                hint="For example 256, or 240x320 (height x width).",
            )
        if self.resize and self.keep_sizes:
            raise InputError(
                [Option("resize"), " and ", Option("keep_sizes"), " contradict each other"]
            )
        if self.fit != "squash" and not self.resize:
            raise InputError([Option("fit", self.fit), " needs ", Option("resize")])
        if self.encode_type and not self.encoded:
            raise InputError(
                [Option("encode_type", self.encode_type), " needs ", Option("encoded", True)]
            )

    def json(self) -> dict[str, Any]:
        """As dataset.json has it."""
        found = asdict(self)
        found["resize"] = list(self.resize) if self.resize else None
        found["test_share"] = float(self.test_share)
        return found


def parse_resize(size: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width from ``256``, ``240x320`` or a pair.

    >>> parse_resize("240x320"), parse_resize(256)
    ((240, 320), (256, 256))

    Raises:
        InputError: It is none of them.
    """
    if size is None or isinstance(size, tuple):
        return size
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", str(size).strip().lower())
    if found is None:
        raise InputError(
            [Option("resize"), f" takes a size, not {size!r}"],
            hint="For example 256, or 240x320 (height x width).",
        )
    return int(found[1]), int(found[2] or found[1])


def parse_share(share: str | float) -> Fraction:
    """A share from ``20%`` or ``0.2``.

    >>> parse_share("20%"), parse_share(0.5), parse_share("0")
    (Fraction(1, 5), Fraction(1, 2), Fraction(0, 1))

    Raises:
        InputError: It is none, or not below one.
    """
    text = str(share).strip()
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})(%?)", text)
    value = Fraction(found[1]) / (100 if found[2] else 1) if found else Fraction(1)
    if value >= 1:
        raise InputError(
            [Option("test_share"), f" takes a share below 100%, not {text!r}"],
            hint="For example 20%; 0 makes no test set.",
        )
    return value
