"""How far rounding alone can lead: the control for nets that aren't smooth or well conditioned.

The reference is the engine in double precision. It runs again with the result of each operation,
forward and backward, moved by 6e-8 (relative, normal; as much as single precision rounds), with
three seeds. What single precision may differ from the reference by is the largest of those
differences, times four; and never less than 1e-5. The factor and the floor were fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.rounding import round_as_single
from tests.engines.torch.on_caffe import Answer, Arrays, Trial, on_torch, worst

SEEDS = (1, 2, 3)
FACTOR = 4
FLOOR = 1e-5


def moved(seed: int) -> Callable[[TorchNet], None]:
    """Changes a net so that its operations round as badly as single precision."""
    return partial(round_as_single, seed=seed)


@dataclass(frozen=True)
class Finding:
    """One kind of numbers of one net.

    Attributes:
        kind: Losses, blobs or gradients, and of which pass.
        allowed: What rounding can do.
        caffe, torch: The relative errors of both engines in single precision.
        where: The arrays with the largest errors.
    """

    kind: str
    allowed: float
    caffe: float
    torch: float
    where: tuple[str, str]

    @property
    def right(self) -> bool:
        return self.caffe <= self.allowed and self.torch <= self.allowed


def findings(trial: Trial, theirs: Answer) -> list[Finding]:
    """Compares both engines with the engine in double precision, running as it trains."""
    engine = partial(on_torch, trial, theirs.weights, every_blob=False)
    reference, ours = engine(torch.float64), engine()
    controls = [engine(torch.float64, moved(seed)) for seed in SEEDS]
    found = []
    weights: dict[str, float] = {}
    net = trial.net()
    for node in net.nodes:
        for top, weight in zip(node.tops, node.loss, strict=True):
            if weight:
                weights[net.blobs[top].name] = weight

    def losses(answer: Answer, n: int) -> Arrays:
        """The loss, and what it would be if its terms couldn't cancel each other out."""
        blobs = answer.blobs[n]
        size = sum(abs(w) * float(abs(blobs[name]).sum()) for name, w in weights.items()
                   if name in blobs)  # fmt: skip
        return {"loss": np.array([answer.losses[n], size])}

    for kind, arrays in {"losses": losses, **KINDS}.items():
        for n in range(len(reference.losses)):
            exact = arrays(reference, n)
            control = max(worst(exact, arrays(other, n))[0] for other in controls)
            caffe, where = worst(exact, _only(arrays(theirs, n), exact))
            own, there = worst(exact, arrays(ours, n))
            allowed = max(FLOOR, FACTOR * control)
            found.append(Finding(f"{kind} {n}", allowed, caffe, own, (where, there)))
    return found


def _only(arrays: Arrays, wanted: Arrays) -> Arrays:
    return {name: arrays[name] for name in wanted if name in arrays}


KINDS: dict[str, Callable[[Answer, int], Arrays]] = {
    "blobs": lambda answer, n: answer.blobs[n],
    "gradients": lambda answer, n: answer.gradients[n],
    "inputs": lambda answer, n: answer.inputs[n],
    "statistics": lambda answer, n: answer.after[n],
}
