"""How Caffe fills a parameter before the training (filler.hpp), and its random numbers.

Caffe's generator is boost's MT19937. Given a seed, ``uniform``, ``xavier`` and
``positive_unitball`` are Caffe's numbers bit for bit. ``gaussian`` and ``msra`` have the same
distribution, but not the same numbers: boost draws a varying count of raw numbers for each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.layers.base import Shape, count
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
else:
    Array = np.ndarray

_RAW_MAX = np.float32(2**32 - 1)


class Draws(CaffeRandom):
    """Caffe's random numbers on the host, as its fillers draw them (math_functions.cpp).

    One object serves a solver and all of its nets, in the order in which Caffe builds them.

    Args:
        seed: The solver's random_seed; None or a negative one takes the system's entropy.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        self._normal = np.random.Generator(self.bits)

    def uniform(self, low: float, high: float, number: int) -> Array:
        """Numbers from ``low`` to ``high``, both included (boost::uniform_real)."""
        low32 = np.float32(low)
        end = np.nextafter(np.float32(high), np.float32(np.inf))
        drawn = np.empty(0, np.float32)
        while drawn.size < number:  # boost draws again where rounding has led to the end
            raw = self.raws(number - drawn.size).astype(np.float32)
            new = raw / _RAW_MAX * (end - low32) + low32
            drawn = np.concatenate([drawn, new[new < end]])
        return drawn

    def gaussian(self, mean: float, deviation: float, number: int) -> Array:
        """Normally distributed numbers; not Caffe's own."""
        drawn = self._normal.standard_normal(number) * deviation + mean
        return np.asarray(drawn, np.float32)

    def bernoulli(self, probability: float, number: int) -> Array:
        """Ones with this probability, else zeros (boost::bernoulli_distribution)."""
        if probability == 0:
            return np.zeros(number, np.float32)
        limit = np.float32(probability) * _RAW_MAX
        return (self.raws(number).astype(np.float32) <= limit).astype(np.float32)


class BlankDraws(Draws):
    """Fills everything with zeros, which takes neither time nor memory: for nets to be counted."""


def fill(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    """A filled blob. The rule has checked that the filler exists and takes the shape."""
    if isinstance(draws, BlankDraws):
        return np.zeros(shape, np.float32)
    return _FILLERS[filler.type](filler, shape, draws).reshape(shape)


def _constant(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    return np.full(shape, filler.value, np.float32)


def _uniform(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    return draws.uniform(filler.min, filler.max, count(shape))


def _gaussian(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    filled = draws.gaussian(filler.mean, filler.std, count(shape))
    if filler.sparse >= 0:
        filled *= draws.bernoulli(filler.sparse / shape[0], filled.size)
    return filled


def _positive_unitball(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    rows = draws.uniform(0, 1, count(shape)).reshape(shape[0], -1)
    sums: Array = np.add.accumulate(rows, axis=1)[:, -1:]  # one by one, as Caffe adds
    return rows / sums


def _xavier(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    scale = np.sqrt(np.float32(3) / _fans(filler, shape))
    return draws.uniform(-scale, scale, count(shape))


def _msra(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    return draws.gaussian(0, math.sqrt(2 / _fans(filler, shape)), count(shape))


def _fans(filler: caffe_pb2.FillerParameter, shape: Shape) -> np.float32:
    size = count(shape)
    fan_in = size // shape[0]
    fan_out = size // shape[1] if len(shape) > 1 else size
    if filler.variance_norm == caffe_pb2.FillerParameter.AVERAGE:
        return np.float32((fan_in + fan_out) / 2)
    return np.float32(
        fan_out if filler.variance_norm == caffe_pb2.FillerParameter.FAN_OUT else fan_in
    )


def _bilinear(filler: caffe_pb2.FillerParameter, shape: Shape, draws: Draws) -> Array:
    width = shape[-1]
    half = -(-width // 2)
    centre = np.float32((width - 1) / (2 * half))
    line = 1 - np.abs(np.arange(width, dtype=np.float32) / np.float32(half) - centre)
    line = line.astype(np.float32)
    return np.broadcast_to(line[:, None] * line[None, :], shape).copy()


_FILLERS = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
