"""The scores of a test net, averaged as Caffe's solver averages them (solver.cpp, Test)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from caffe_batch.engines.torch.net import TorchNet


@dataclass(frozen=True)
class Scores:
    """What a test gave: means over its passes.

    Attributes:
        outputs: Pairs of a name and one number, in the order of Caffe's log: each element of each
            output by itself, the elements of one output under the same name.
        loss: The loss; None unless the solver has test_compute_loss.
    """

    outputs: tuple[tuple[str, float], ...]
    loss: float | None


def score(
    net: TorchNet,
    feed: Callable[[], Mapping[str, Tensor]],
    passes: int,
    *,
    compute_loss: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Tests a net.

    Args:
        net: The test net, which shares the weights of the train net.
        feed: Gives the tops of the data layers for the next pass.
        passes: The solver's test_iter for this net.
        compute_loss: The solver's test_compute_loss.
        stop: Asked before each pass, as Caffe looks for signals there.

    Returns:
        None if it was stopped.
    """
    sums: dict[str, Tensor] = {}
    loss: Tensor | None = None
    for _ in range(passes):
        if stop():
            return None
        done = net.forward(feed())
        for name, value in done.outputs.items():
            flat = value.reshape(-1)
            sums[name] = sums[name] + flat if name in sums else flat.clone()
        loss = done.loss if loss is None else loss + done.loss
    flat = torch.cat(list(sums.values())) if sums else torch.zeros(0)
    means = iter((flat / passes).tolist())
    outputs = tuple((name, next(means)) for name, total in sums.items() for _ in total)
    return Scores(outputs, float(loss / passes) if compute_loss and loss is not None else None)
