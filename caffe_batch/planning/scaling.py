"""How the time of an update falls with the number of GPUs, on paper.

An update is ``iter_size`` passes and then one exchange of the gradients; the passes don't wait for
the exchange, nor does it begin before the last of them is done. Each GPU sends and receives
``2 (G - 1) / G`` times the gradients, as in a ring of G (reduce-scatter, then all-gather). What a
message costs however short it is, and the time to read data, aren't in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from caffe_batch.net.graph import Net

#: As many GPUs as are looked at.
MOST_GPUS = 1024

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Scale:
    """An update on some GPUs.

    Attributes:
        gpus: How many.
        batch_size: Samples of a pass on each.
        iter_size: Passes of an update.
        compute_s: Seconds that these take.
        exchange_s: Seconds of the exchange after them.
        alone_s: Seconds of the same update on one GPU.
    """

    gpus: int
    batch_size: int
    iter_size: int
    compute_s: float
    exchange_s: float
    alone_s: float

    @property
    def update_s(self) -> float:
        """Seconds of an update."""
        return self.compute_s + self.exchange_s

    @property
    def exchange_share(self) -> float:
        """The share of the exchange in that: what accumulation makes small."""
        return self.exchange_s / self.update_s

    @property
    def each_pass_s(self) -> float:
        """Seconds of an update whose gradients are exchanged after each pass."""
        return self.compute_s + self.iter_size * self.exchange_s

    @property
    def speedup(self) -> float:
        """How many times as fast as on one GPU."""
        return self.alone_s / self.update_s

    def json(self) -> dict[str, object]:
        """As in ``caffe-batch plan --json``."""
        return {
            "gpus": self.gpus,
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "compute_s": self.compute_s,
            "exchange_s": self.exchange_s,
            "update_s": self.update_s,
            "each_pass_s": self.each_pass_s,
            "speedup": self.speedup,
        }


def exchange_s(gradient_bytes: int, gpus: int, link_bytes_per_s: float) -> float:
    """Seconds to average gradients in a ring of GPUs.

    >>> exchange_s(100_000_000, 2, 25e9), exchange_s(100_000_000, 1, 25e9)
    (0.004, 0.0)

    Args:
        gradient_bytes: The gradients of one GPU.
        gpus: GPUs of the ring.
        link_bytes_per_s: What each sends, and receives at the same time.
    """
    return 2 * (gpus - 1) * gradient_bytes / gpus / link_bytes_per_s


def gradient_bytes(net: Net) -> int:
    """Bytes of the gradients that GPUs exchange: those of the parameters that learn."""
    learn = {
        index
        for node in net.nodes
        if node.site.backward and not node.rule.fixed_parameters
        for index, need in zip(node.params, node.site.param_need, strict=True)
        if need
    }
    return sum(_FLOAT_BYTES * prod(net.params[index].shape) for index in learn)


def scaling(
    *,
    effective_batch: int,
    batch_size: int,
    gradients: int,
    samples_per_s: float,
    link_bytes_per_s: float,
    most_gpus: int = MOST_GPUS,
) -> Iterator[Scale]:
    """The same effective batch on 1, 2, 4, ... GPUs.

    Each pass has as many samples as the plan's or, where that is more than a GPU's share, its
    share; a sample is taken to need as long in a smaller pass, which flatters many GPUs.

    Args:
        effective_batch: Samples of an update.
        batch_size: The most samples of a pass on a GPU.
        gradients: Bytes of the gradients of one GPU.
        samples_per_s: Samples that one GPU trains per second, alone.
        link_bytes_per_s: What a GPU sends per second, and receives at the same time.
        most_gpus: Where to end; numbers that can't share the batch evenly are left out.
    """
    gpus = 1
    while gpus <= most_gpus:
        share, rest = divmod(effective_batch, gpus)
        if share and not rest:
            size = max(n for n in range(1, min(batch_size, share) + 1) if share % n == 0)
            yield Scale(
                gpus=gpus,
                batch_size=size,
                iter_size=share // size,
                compute_s=share / samples_per_s,
                exchange_s=exchange_s(gradients, gpus, link_bytes_per_s),
                alone_s=effective_batch / samples_per_s,
            )
        gpus *= 2
