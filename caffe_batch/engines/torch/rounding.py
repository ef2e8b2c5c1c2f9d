"""What rounding alone can do to a net: the control for nets that amplify it.

In double precision a net runs as if without rounding. It runs again with what each layer gives,
forward and backward, moved by as much as single precision rounds; how far that leads is how far a
calculation in single precision may lie from the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffe_batch.engines.torch.net import TorchNet

#: By how much single precision rounds, relatively (2^-24).
MOVE = 6e-8


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: torch.Generator) -> Tensor:
        ctx.draw = draw
        return _move(x, draw)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _move(gradients[0], ctx.draw), None


def _move(x: Tensor, draw: torch.Generator) -> Tensor:
    if torch.equal(x, x.round()):  # labels, indices, counts: exact in any precision
        return x.clone()
    return x * (1 + MOVE * torch.randn(x.shape, generator=draw, dtype=x.dtype))


def round_as_single(net: TorchNet, seed: int) -> None:
    """Change a net so that its layers round as badly as single precision.

    Args:
        net: The net, on the CPU; in double precision it rounds by no more than that.
        seed: Of the numbers by which it rounds.
    """
    draw = torch.Generator().manual_seed(seed)
    apply: Any = _Moved.apply
    for layer in net.running:

        def forward(
            bottoms: Sequence[Tensor], blobs: Sequence[Tensor], own: Any = layer.forward
        ) -> list[Tensor]:
            return [apply(top, draw) for top in own(bottoms, blobs)]

        layer.forward = forward  # type: ignore[method-assign]
