"""The part of the module ``caffe`` that Python layers use: ``caffe.Layer`` and its blobs.

:func:`install` puts it in the place of the real one, in the worker's process only. What it lacks
raises an AttributeError that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

TRAIN, TEST = 0, 1


class Blob:
    """A blob as pycaffe shows it: ``data`` and ``diff`` are float32 arrays, written in place."""

    def __init__(self, data: Array) -> None:
        self._data = data
        self._diff: Array | None = None

    @property
    def data(self) -> Array:
        """The values."""
        return self._data

    @property
    def diff(self) -> Array:
        """The gradient."""
        if self._diff is None or self._diff.shape != self._data.shape:
            self._diff = np.zeros_like(self._data)
        return self._diff

    def set_data(self, data: Array) -> None:
        """Other values; the layer may write into them."""
        self._data = np.array(data, np.float32)

    def set_diff(self, diff: Array) -> None:
        """Another gradient."""
        self._diff = np.array(diff, np.float32)

    def reshape(self, *shape: int) -> None:
        """Another shape. The values stay as far as they go, as in Caffe."""
        sizes = tuple(int(size) for size in shape)
        if sizes == self._data.shape:
            return
        old = self._data.ravel()
        self._data = np.zeros(sizes, np.float32)
        kept = min(old.size, self._data.size)
        self._data.reshape(-1)[:kept] = old[:kept]
        self._diff = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """The number of its elements."""
        return self._data.size

    @property
    def num(self) -> int:
        """The old name of the first axis; the next three follow it."""
        return self._old_axis(0)

    @property
    def channels(self) -> int:
        """Axis 1."""
        return self._old_axis(1)

    @property
    def height(self) -> int:
        """Axis 2."""
        return self._old_axis(2)

    @property
    def width(self) -> int:
        """Axis 3."""
        return self._old_axis(3)

    def _old_axis(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1


class BlobVec:
    """A list of blobs; that of a layer's parameters grows by ``add_blob``."""

    def __init__(self, blobs: Sequence[Blob], *, grows: bool = False) -> None:
        self._blobs = list(blobs)
        self._grows = grows

    def __len__(self) -> int:
        return len(self._blobs)

    def __iter__(self) -> Iterator[Blob]:
        return iter(self._blobs)

    def __getitem__(self, index: int) -> Blob:
        return self._blobs[index]

    def add_blob(self, *shape: int) -> None:
        """A further parameter, of zeros."""
        if not self._grows:
            raise AttributeError("only the blobs of a layer itself can grow by add_blob")
        self._blobs.append(Blob(np.zeros(shape, np.float32)))


class Layer:
    """What the user's layers derive from."""

    param_str: str
    param_str_: str
    phase: int
    blobs: BlobVec

    def setup(self, bottom: BlobVec, top: BlobVec) -> None:
        """Once, before everything else."""

    def reshape(self, bottom: BlobVec, top: BlobVec) -> None:
        """Before every forward: the shapes of the tops."""
        raise NotImplementedError("a Python layer needs a method reshape")

    def forward(self, bottom: BlobVec, top: BlobVec) -> None:
        """Calculates the tops."""
        raise NotImplementedError("a Python layer needs a method forward")

    def backward(self, top: BlobVec, propagate_down: Sequence[bool], bottom: BlobVec) -> None:
        """Calculates the gradients of the bottoms."""
        raise NotImplementedError("a Python layer needs a method backward")


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"the PyTorch engine's module {self.__name__!r} has no {name!r}: it offers Python "
            f"layers {', '.join(sorted(_OFFERED))} only; with Caffe itself: --engine caffe"
        )


def _ignore(*given: object) -> None:
    """What a layer may set, but which this engine decides itself."""


_OFFERED: dict[str, Any] = {
    "Layer": Layer,
    "TRAIN": TRAIN,
    "TEST": TEST,
    "set_mode_cpu": _ignore,
    "set_mode_gpu": _ignore,
    "set_device": _ignore,
}


def install() -> None:
    """Makes ``import caffe`` give this module, in this process."""
    if isinstance(sys.modules.get("caffe"), _Module):
        return
    module = _Module("caffe")
    module.__dict__.update(_OFFERED)
    sys.modules["caffe"] = module
