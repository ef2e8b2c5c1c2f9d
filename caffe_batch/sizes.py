"""Memory sizes as people write them, and back."""

from __future__ import annotations

import re
from fractions import Fraction

from caffe_batch.errors import InputError

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[_letter] = 1024**_power  # nvidia-smi, docker and ulimit all mean 1024 by a bare letter

#: A plain number below it is rather one of MiB or GiB whose unit was forgotten.
_LEAST_PLAIN = 1024**2

_SIZE = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """A size in bytes from ``8GiB``, ``8GB``, ``8192MiB``, ``8G`` (= GiB) or a number of bytes.

    >>> parse_size("8GiB"), parse_size("1.5 GB"), parse_size("11000000000")
    (8589934592, 1500000000, 11000000000)

    Raises:
        InputError: The text is no size, is zero, or is less than 1 MiB and has no unit.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise InputError(
            f"{text!r} is not a size", hint="Write it like 8GiB, 8GB, 8192MiB or 11000000000."
        )
    size = int(Fraction(match[1]) * unit)
    if size <= 0:
        raise InputError(f"{text!r} leaves no memory at all", hint="Give a size above zero.")
    if size < _LEAST_PLAIN and not match[2]:
        raise InputError(
            f"{text!r} has no unit, and would be {size:,} bytes",
            hint=f"Write {match[1]}GiB or {match[1]}MiB; {match[1]}B if it is bytes.",
        )
    return size


def parse_rate(text: str) -> int:
    """Bytes per second of a link, from ``25GB/s`` or ``900 MiB/s``.

    >>> parse_rate("25GB/s")
    25000000000

    Raises:
        InputError: The text is no rate, or one of bits.
    """
    size, slash, per = text.partition("/")
    match = _SIZE.fullmatch(size)
    if match is None or not slash or per.strip() != "s" or not match[2]:
        raise InputError(
            f"{text!r} is not the rate of a link", hint="Write it like 25GB/s or 900MiB/s."
        )
    if match[2].endswith("b"):
        raise InputError(
            f"{text!r} could be a rate in bits per second",
            hint="Write bytes, with a capital B: 25Gb/s are about 3.1GB/s.",
        )
    return parse_size(size)


def size_text(size: str | int) -> str:
    """A size as text, for :func:`parse_size`; a number of the library is one of bytes.

    >>> size_text("8GiB"), size_text(4096), size_text(0)
    ('8GiB', '4096B', '0')
    """
    return f"{size}B" if isinstance(size, int) and size else str(size)


def format_size(size_bytes: int) -> str:
    """A size for people, in binary units with three significant digits.

    >>> format_size(8589934592), format_size(123548), format_size(-1536), format_size(1046000)
    ('8 GiB', '121 KiB', '-1.5 KiB', '1021 KiB')
    """
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}" if abs(value) < 1000 else f"{value:.0f} {units[0]}"
