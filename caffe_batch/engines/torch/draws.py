"""Caffe's random numbers: the same ones, from the same seed.

Caffe has one generator for each thread, boost's mt19937, and every data layer that crops, mirrors
or shuffles has another, seeded from the main thread's (common.cpp, data_transformer.cpp). HDF5Data
alone shuffles with the C library's ``rand``.

Sources: util/math_functions.cpp (caffe_rng_rand), util/rng.hpp (shuffle), boost's
uniform_int_distribution.hpp, glibc's random_r.c, libstdc++'s std::random_shuffle.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import MutableSequence
from typing import Any

import numpy as np

_WORD = 0xFFFF_FFFF


class CaffeRandom:
    """A generator of Caffe's: MT19937, seeded as boost seeds it.

    Args:
        seed: As in ``random_seed``; None or a negative one draws another each time, as in Caffe.

    Attributes:
        seed: The seed that it has.
        bits: numpy's generator behind it.
    """

    def __init__(self, seed: int | None) -> None:
        drawn = seed is None or seed < 0
        self.seed = int.from_bytes(os.urandom(4), "little") if drawn else int(seed or 0) & _WORD
        self.bits = np.random.MT19937()
        self.bits._legacy_seeding(self.seed)

    def raw(self) -> int:
        """The next 32 bits."""
        return int(self.bits.random_raw())

    def raws(self, number: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """The next numbers of 32 bits."""
        return np.asarray(self.bits.random_raw(number), np.uint32)

    def skip(self, number: int) -> None:
        """Leave out some numbers."""
        if number:
            self.bits.random_raw(number, False)

    def child(self) -> CaffeRandom:
        """A generator that is seeded with the next number of this one."""
        return CaffeRandom(self.raw())

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put items into another order, as ``caffe::shuffle`` does."""
        last = len(items) - 1
        for place in range(last, 0, -1):
            other = self._below_or_at(place)
            items[place], items[other] = items[other], items[place]

    def _below_or_at(self, most: int) -> int:
        """A whole number from 0 to ``most``, as boost::uniform_int draws it."""
        bucket = _WORD // (most + 1) + (_WORD % (most + 1) == most)
        while True:
            drawn = self.raw() // bucket
            if drawn <= most:
                return drawn

    @property
    def state(self) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """Where it is, as 625 words; setting it goes on from there."""
        inner: Any = self.bits.state["state"]
        return np.append(inner["key"], np.uint32(inner["pos"]))

    @state.setter
    def state(self, words: np.ndarray[Any, np.dtype[np.uint32]]) -> None:
        self.bits.state = {
            "bit_generator": "MT19937",
            "state": {"key": words[:-1], "pos": int(words[-1])},
        }


class LibcRandom:
    """glibc's ``rand`` with its default seed, which no one changes in Caffe.

    Attributes:
        words: The last 31 words, the oldest first: where it is.
    """

    def __init__(self) -> None:
        first = [1]
        while len(first) < 31:
            first.append(16807 * first[-1] % 2147483647)
        self.words = deque([*first[3:], *first[:3]], maxlen=31)
        for _ in range(310):
            self._next()

    def _next(self) -> int:
        word = (self.words[0] + self.words[28]) & _WORD
        self.words.append(word)
        return word

    def raw(self) -> int:
        """The next number, of 31 bits."""
        return self._next() >> 1

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put items into another order, as ``std::random_shuffle`` does."""
        for place in range(1, len(items)):
            other = self.raw() % (place + 1)
            items[place], items[other] = items[other], items[place]
