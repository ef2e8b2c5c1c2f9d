"""The gradients of single micro-batches, from the running sums of an update.

The gradient of a micro-batch is what was added since the one before. Measuring it takes a copy of
all gradients and about five passes over them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import torch

from caffe_batch.engines.torch.net import TorchNet

#: NoiseSampler takes at most about this share of the time.
SHARE = 0.02


class MicroGradients:
    """The squared norms of the gradients of micro-batches; of trained parameters only.

    Args:
        net: The net.
        frozen: (name of the layer, index) of each parameter whose lr_mult is 0.
    """

    def __init__(self, net: TorchNet, frozen: Collection[tuple[str, int]]) -> None:
        left_out = {(layer, index) for layer, index in frozen}
        self._values = [
            param.value for param in net.params if (param.layer, param.index) not in left_out
        ]
        self._before = [torch.zeros_like(value, requires_grad=False) for value in self._values]
        self._squares, self._passes = 0.0, 0

    def begin(self) -> None:
        """Start a group: there are no gradients now."""
        for before in self._before:
            before.zero_()
        self._squares, self._passes = 0.0, 0

    @torch.no_grad()
    def add(self) -> None:
        """Take in a micro-batch whose backward pass has just ended."""
        for value, before in zip(self._values, self._before, strict=True):
            if value.grad is not None:
                self._squares += _squared_norm(value.grad - before)
                before.copy_(value.grad)
        self._passes += 1

    def norms(self) -> dict[str, float]:
        """The group so far, as the content of an event."""
        total = sum(map(_squared_norm, self._before))
        return {
            "passes": self._passes,
            "micro_norm_squared": self._squares / self._passes,
            "mean_norm_squared": total / self._passes**2,
        }


class NoiseSampler:
    """Reports the micro-batches of some of a solver's updates, without extra passes.

    An update is sampled when all sampling so far has taken less than SHARE of the time; the first
    one always is.

    Args:
        gradients: What measures them.
        every: At most one in this many updates is sampled.
        send: Takes the name and the content of an event.
    """

    def __init__(self, gradients: MicroGradients, every: int, send: Callable[..., None]) -> None:
        self._gradients, self._every, self._send = gradients, every, send
        self._update: int | None = None
        self._spent, self._started = 0.0, time.monotonic()

    def begin(self, update: int) -> None:
        """An update begins."""
        start = time.monotonic()
        due = update % self._every == 0 and self._spent <= SHARE * (start - self._started)
        self._update = update if due else None
        if due:
            self._gradients.begin()
            self._spent += time.monotonic() - start

    def add(self) -> None:
        """A micro-batch of it is done."""
        if self._update is not None:
            start = time.monotonic()
            self._gradients.add()
            self._spent += time.monotonic() - start

    def end(self) -> None:
        """All of them are."""
        if self._update is not None:
            self._send("gradients", update=self._update, **self._gradients.norms())


def _squared_norm(values: torch.Tensor) -> float:
    """The sum of the squares, in double precision."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64) ** 2)
