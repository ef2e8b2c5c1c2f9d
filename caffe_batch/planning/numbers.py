"""Numbers as Caffe holds them."""

from __future__ import annotations

import struct


def as_float32(value: float) -> float:
    """The shortest decimal that stands for the same single-precision number.

    Caffe's fields are floats: 0.1 comes out of a prototxt as 0.10000000149011612.

    >>> as_float32(0.10000000149011612)
    0.1
    """
    stored = _round_trip(value)
    return next(
        short
        for digits in range(6, 18)
        if _round_trip(short := float(f"{value:.{digits}g}")) == stored
    )


def _round_trip(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
