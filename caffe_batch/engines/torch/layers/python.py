"""Python layers: the user's own ``caffe.Layer`` classes, run as Caffe runs them.

Source: python_layer.hpp, python/caffe/_caffe.cpp. What they see of Caffe is
:mod:`caffe_batch.engines.torch.pycaffe`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_batch.engines.torch import pycaffe
from caffe_batch.engines.torch.fillers import Array, Draws
from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.engines.torch.pycaffe import Blob, BlobVec
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Memory, Mode, Rule, Shape, Site
from caffe_batch.layers.own import PYTHON
from caffe_batch.layers.registry import Registry


@dataclass(frozen=True, slots=True)
class PythonSettings:
    module: str = ""
    layer: str = ""
    param_str: str = ""


class PythonError(InputError):
    """The user's layer can't be made, or has raised; the cause is the exception."""


class PythonRule(Rule):
    """What a Python layer says of itself: its own setup and reshape are run.

    Each layer is set up once, here; :class:`Python` takes it over. So the numbers that a setup
    draws are drawn once, as in Caffe.
    """

    type = "Python"
    message = "python_param"
    settings = PythonSettings
    bottoms = (0, None)
    tops = (0, None)
    automatic_top = False

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], list[_Made]] = {}

    def shape(self, site: Site) -> tuple[Shape, ...]:
        made = _make(site)
        self._made.setdefault(_key(site), []).append(made)
        return tuple([tuple(blob.data.shape) for blob in made.tops])

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        made = self._made.get(_key(site))
        return tuple([tuple(blob.data.shape) for blob in made[-1].layer.blobs]) if made else ()

    def memory(self, site: Site, mode: Mode) -> Memory:
        """Nothing is known of its buffers."""
        return Memory(partial=True)

    def take(self, site: Site) -> _Made:
        """The layer that was set up at this site."""
        made = self._made.get(_key(site))
        return made.pop(0) if made else _make(site)


class _WithPython(Registry):
    """Rules, and one for all Python layers, whatever their class."""

    def __init__(self, rules: Registry) -> None:
        super().__init__(rules.values(), rules.files, fork=rules.fork, hints=rules.hints)
        self._python = PythonRule()

    def __getitem__(self, layer_type: str) -> Rule:
        if layer_type == self._python.type or layer_type.startswith(PYTHON):
            return self._python
        return super().__getitem__(layer_type)


def with_python(rules: Registry) -> Registry:
    """The rules, and one for the Python layers of one process."""
    return _WithPython(rules)


@dataclass
class _Made:
    """A layer with its blobs."""

    layer: Any
    bottoms: BlobVec
    tops: BlobVec


def _key(site: Site) -> tuple[Any, ...]:
    return (site.phase, site.settings, site.bottoms, site.tops)


def _make(site: Site) -> _Made:
    """Makes the user's class and runs its setup and reshape."""
    s: PythonSettings = site.settings
    kind = _class(s)
    layer: Any = object.__new__(kind)
    layer.blobs = BlobVec([], grows=True)
    layer.phase = int(site.phase == "TEST")
    layer.param_str = layer.param_str_ = s.param_str
    if kind.__init__ is not pycaffe.Layer.__init__:
        layer.__init__()
    bottoms = BlobVec([Blob(np.zeros(shape, np.float32)) for shape in site.bottoms])
    tops = BlobVec([
        bottoms[i] if same else Blob(np.zeros((), np.float32))
        for i, same in enumerate(site.in_place or (False,) * site.tops)
    ])  # fmt: skip
    made = _Made(layer, bottoms, tops)
    _call(s, "setup", layer, bottoms, tops)
    _call(s, "reshape", layer, bottoms, tops)
    return made


def _class(s: PythonSettings) -> type[Any]:
    pycaffe.install()
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # Caffe looks on PYTHONPATH; pycaffe in the working directory too
    try:
        kind: type[Any] = getattr(importlib.import_module(s.module), s.layer)
    except Exception as error:
        raise PythonError(
            f"python layer {s.module}.{s.layer} can't be loaded: {type(error).__name__}: {error}",
            hint="Its module must be on PYTHONPATH or in the working directory.",
        ) from error
    return kind


def _call(s: PythonSettings, method: str, layer: Any, *arguments: Any) -> None:
    try:
        getattr(layer, method)(*arguments)
    except Exception as error:
        raise PythonError(
            f"{method} of Python layer {s.module}.{s.layer} has raised "
            f"{type(error).__name__}: {error}"
        ) from error


class Python(TorchLayer):
    """One such layer in a net. It sees blobs as numpy arrays on the host."""

    drawn = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        rule = place.rule
        self.made = rule.take(place.site) if isinstance(rule, PythonRule) else _make(place.site)

    def fill(self, draws: Draws) -> list[Array]:
        """What its setup has put into its blobs."""
        return [blob.data for blob in self.made.layer.blobs]

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        made, s = self.made, self.place.settings
        for blob, tensor in zip(made.bottoms, bottoms, strict=True):
            blob.set_data(_array(tensor))
        for blob, tensor in zip(made.layer.blobs, blobs, strict=True):
            blob.set_data(_array(tensor))
        _call(s, "reshape", made.layer, made.bottoms, made.tops)
        _call(s, "forward", made.layer, made.bottoms, made.tops)
        for blob, tensor in zip(made.layer.blobs, blobs, strict=True):
            if not np.array_equal(blob.data, _array(tensor), equal_nan=True):
                with torch.no_grad():
                    tensor.copy_(torch.from_numpy(np.array(blob.data)))
        tops = [
            torch.from_numpy(np.array(blob.data)).to(self.place.device, self.place.dtype)
            for blob in made.tops
        ]
        learning = [*bottoms, *blobs]
        if not any(tensor.requires_grad for tensor in learning):
            return tops
        kept = [np.array(blob.data) for blob in (*made.bottoms, *made.tops)]
        return _Backward.of(tops, self, kept, learning)

    def backward(
        self, gradients: Sequence[Tensor | None], kept: Sequence[Array], learning: Tensors
    ) -> list[Tensor | None]:
        """The gradients of bottoms and parameters, by the user's backward."""
        made, s = self.made, self.place.settings
        for blob, array in zip((*made.bottoms, *made.tops), kept, strict=True):
            blob.set_data(array)
        for blob, gradient in zip(made.tops, gradients, strict=True):
            zeros = np.zeros_like(blob.data)
            blob.set_diff(zeros if gradient is None else _array(gradient))
        for blob in (*made.bottoms, *made.layer.blobs):
            if not any(blob is top for top in made.tops):
                blob.set_diff(np.zeros_like(blob.data))
        needs = [tensor.requires_grad for tensor in learning[: len(made.bottoms)]]
        _call(s, "backward", made.layer, made.tops, needs, made.bottoms)
        return [
            torch.from_numpy(np.array(blob.diff)).to(tensor) if tensor.requires_grad else None
            for blob, tensor in zip((*made.bottoms, *made.layer.blobs), learning, strict=True)
        ]


class _Backward(torch.autograd.Function):
    """All tops of a Python layer at once: its backward wants all of their gradients."""

    @staticmethod
    def of(
        tops: list[Tensor], layer: Python, kept: Sequence[Array], learning: Tensors
    ) -> list[Tensor]:
        """The tops, with a graph."""
        apply: Any = _Backward.apply
        made: tuple[Tensor, ...] = apply(layer, kept, len(tops), *tops, *learning)
        return list(made)

    @staticmethod
    def forward(
        ctx: Any, layer: Python, kept: Sequence[Array], number: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.layer, ctx.kept, ctx.number = layer, kept, number
        ctx.learning = tensors[number:]
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors[:number])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        into = ctx.layer.backward(gradients, ctx.kept, ctx.learning)
        return (None, None, None, *(None,) * ctx.number, *into)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", torch.float32).numpy()
    return array
