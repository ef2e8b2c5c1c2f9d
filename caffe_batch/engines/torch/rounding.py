"""What rounding alone can do to a net: the control for nets that amplify it.

In double precision a net runs as if without rounding. It runs again with the result of each
operation, forward and backward, moved by as much as single precision rounds; how far that leads is
how far a calculation in single precision may lie from the first one.

Each operation, rather than what a whole layer gives: where its parts nearly cancel each other out,
the rounding of the parts is far more than that of what is left. A BatchNorm over two numbers is the
extreme case: whatever comes in, the gradient that it gives is all but zero, the difference of terms
that aren't. So what PyTorch does in one call but in several steps is taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

from caffe_batch.engines.torch.net import Pass, TorchNet

#: By how much single precision rounds, relatively (2^-24).
MOVE = 6e-8

_ATEN = torch.ops.aten

#: Operations in several steps, and how they are done with others.
_STEPS: Mapping[Any, Callable[..., Any]] = get_decompositions(
    [
        _ATEN.native_batch_norm,
        _ATEN.native_batch_norm_backward,
        _ATEN._softmax,
        _ATEN._softmax_backward_data,
        _ATEN._log_softmax,
        _ATEN._log_softmax_backward_data,
    ]
)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The context in which every operation rounds as badly as single precision.

    Args:
        draw: The numbers by which it rounds.
    """

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draw = draw

    def __torch_dispatch__(
        self,
        func: Any,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _STEPS:
            with self:
                return _STEPS[func](*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else (result,)
        for value, spec in zip(results, func._schema.returns, strict=False):
            made = spec.alias_info is None or spec.alias_info.is_write  # and not only looked at
            if made and isinstance(value, Tensor) and value.dtype == torch.float64:
                self._move(value)
        return result

    def _move(self, x: Tensor) -> None:
        if not torch.equal(x, x.round()):  # labels, indices, counts: exact in any precision
            x.mul_(1 + MOVE * torch.randn(x.shape, generator=self._draw, dtype=x.dtype))


def round_as_single(net: TorchNet, seed: int) -> None:
    """Change a net so that its operations round as badly as single precision.

    Args:
        net: The net, on the CPU; in double precision it rounds by no more than that.
        seed: Of the numbers by which it rounds.
    """
    rounding = _Rounding(torch.Generator().manual_seed(seed))
    forward, backward = net.forward, net.backward

    def rounded(fed: Mapping[str, Tensor], keep: Collection[str] = ()) -> Pass:
        with rounding:
            return forward(fed, keep)

    def rounded_back(done: Pass) -> None:
        with rounding:
            backward(done)

    net.forward = rounded  # type: ignore[method-assign]
    net.backward = rounded_back  # type: ignore[method-assign]
