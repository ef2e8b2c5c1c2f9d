"""Numbers as Caffe stores them."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from itertools import count

#: The largest finite single-precision number (IEEE 754), FLT_MAX in C.
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127

#: The largest single-precision number below 1.
LARGEST_BELOW_1 = 1 - 2.0**-24


def as_float32(value: float) -> float:
    """The shortest decimal that denotes the same single-precision number.

    Caffe's fields are floats: 0.1 in a prototxt is read back as 0.10000000149011612.

    >>> as_float32(0.10000000149011612)
    0.1
    """
    if not math.isfinite(value):
        return value
    stored = _round_trip(value)
    return next(
        short
        for digits in range(6, 18)
        if _round_trip(short := float(f"{value:.{digits}g}")) == stored
    )


def as_written(value: float) -> Fraction:
    """The simplest fraction that Caffe stores as this float.

    Args:
        value: A finite single-precision number, as a solver message has it.

    >>> as_written(0.20000000298023224)
    Fraction(1, 5)
    """
    candidates = (Fraction(value).limit_denominator(10**digits) for digits in count())
    return next(near for near in candidates if _round_trip(float(near)) == value)


def _round_trip(value: float) -> float:
    """The nearest single-precision number; as in C, an infinite one beyond the largest."""
    try:
        rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded
