"""Counts the memory of all tensors while something runs: when it is allocated, and when freed.

It counts storages, so that views cost nothing, and sees what a dispatcher mode sees: whatever an
operation returns or is given. What a kernel takes for itself and gives back isn't seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from caffe_batch.engines.torch.memory.trace import (
    Freed,
    PlaceOf,
    Stage,
    Stretch,
    Tensor,
    Trace,
)
from caffe_batch.engines.torch.worker.results import Results
from caffe_batch.memory.ledger import Part

#: The operation behind ``.item()``: a tensor without numbers answers 0.
_ITEM = torch.ops.aten._local_scalar_dense.default

#: What a fake tensor is asked for its device with.
_DEVICE = torch.ops.prim.device.default
#: The operation whose result is as large as the numbers say: at most, all of them count.
_NONZERO = torch.ops.aten.nonzero.default
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default
#: Kernels that change tensors and take no memory; without numbers there is nothing to change.
_UPDATES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in dir(torch)
    if name.startswith("_fused_") and name.endswith("_")
)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Notes what is allocated and freed while it is entered.

    Args:
        places: The layers that tensors may belong to; the last one is for what belongs to none.
        fake: Whether the tensors have no numbers: those that are asked for are zeros.

    What is asked is true, so that the answers decide nothing.
    """

    def __init__(self, places: Iterable[PlaceOf], *, fake: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = (*places, PlaceOf(0, "", ""))
        self._fake = fake
        self._kind = FakeTensor if fake else torch.Tensor
        self._place, self._part = len(self._places) - 1, Part.LAYER_BUFFERS
        self._stretches: list[_Open] = []
        self._known: dict[int, tuple[weakref.ref[Any], Freed]] = {}
        self._results = Results()
        self.stretch(Stage.BUILD, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:  # asked thousands of times
            return args[0].fake_device
        if func is _ITEM and (self._fake or args[0].dtype is torch.bool):
            kind = args[0].dtype
            return True if kind is torch.bool else 0.0 if kind.is_floating_point else 0
        if self._fake and func not in _UPDATES:
            found = self._without_numbers(func, args, kwargs or {})
        else:
            found = None if self._fake else func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, found)):
            if isinstance(tensor, self._kind):
                self._see(tensor)
        return found

    def _without_numbers(self, func: Any, args: Any, options: Mapping[str, Any]) -> Any:
        """What an operation returns; those that act otherwise without numbers don't do so here."""
        if func is _NONZERO:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.long)
        if func is _CONVOLUTION_BACKWARD and args[-1] == [args[-1][0], False, True]:
            args = (*args[:-1], [args[-1][0], True, True])  # the bias only with the weights
        return self._results.of(func, args, options)

    # Where the run is

    def stretch(self, stage: Stage, net: int) -> None:
        """From here on, this is done, with that net."""
        self._stretches.append(_Open(stage, net))

    def at(self, place: int | None, part: Part) -> None:
        """From here on, what is allocated belongs to a layer (None: to none), and is for this."""
        self._place = len(self._places) - 1 if place is None else place
        self._part = part

    @contextmanager
    def inside(self, place: int, part: Part) -> Iterator[None]:
        """The same, until the end of the block."""
        before = self._place, self._part
        self.at(place, part)
        try:
            yield
        finally:
            self._place, self._part = before

    def tag(self, tensor: torch.Tensor, part: Part, place: int) -> None:
        """Say what a tensor is for, and of which layer. A parameter remains one."""
        self._see(tensor)
        self._retag(tensor, part, place, lambda made: made.part is not Part.PARAMETERS)

    def tag_own(self, tensor: torch.Tensor, part: Part, place: int) -> None:
        """Say what a tensor is for, if that layer has made it and nothing was said yet."""
        made_here = (Part.LAYER_BUFFERS, place)
        self._retag(tensor, part, place, lambda made: (made.part, made.place) == made_here)

    def _retag(
        self, tensor: torch.Tensor, part: Part, place: int, which: Callable[[Tensor], bool]
    ) -> None:
        known = self._known.get(id(tensor.untyped_storage()))
        if known is None:  # it is empty
            return
        stretch, number = known[1]
        tensors = self._stretches[stretch].tensors
        if which(tensors[number]):
            tensors[number] = Tensor(tensors[number].bytes, part, place)

    def trace(self) -> Trace:
        """What was counted."""
        return Trace(
            self._places,
            tuple([
                Stretch(each.stage, each.net, tuple(each.tensors), tuple(each.events))
                for each in self._stretches
            ]),
        )  # fmt: skip

    # What it notes

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._known or not size:
            return
        now = self._stretches[-1]
        which = Freed(len(self._stretches) - 1, len(now.tensors))
        now.tensors.append(Tensor(size, self._part, self._place))
        now.events.append(None)
        self._known[key] = weakref.ref(storage, self._freeing(key)), which

    def _freeing(self, key: int) -> Callable[[Any], None]:
        def freed(_: Any) -> None:
            self._stretches[-1].events.append(self._known.pop(key)[1])

        return freed


class _Open:
    """A stretch that is being noted."""

    def __init__(self, stage: Stage, net: int) -> None:
        self.stage, self.net = stage, net
        self.tensors: list[Tensor] = []
        self.events: list[Freed | None] = []
