"""The statistics of a batch that several ranks share: as one process has them with all samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Together


def normalised_together(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    together: Together,
) -> Tensor:
    """A batch normalised by channel over the samples of all ranks.

    Args:
        x: The samples of this rank, at least (N, C).
        scale: By channel; or None.
        bias: The same.
        mean: The means are written to it.
        variance: The unbiased variances are (0 if there is one number a channel).
        eps: Is added to the biased variance.
        together: The ranks, all of which are here in the same pass.
    """
    apply: Any = _Normalised.apply
    y: Tensor = apply(x, scale, bias, mean, variance, eps, together)
    return y


class _Normalised(torch.autograd.Function):
    """Two sums over the ranks forward, and one backward.

    The gradient is that of the sum of the losses of all ranks, as a rank's samples have an
    influence on the others'; the mean of the parameters' gradients over the ranks is then that of
    the mean loss.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        together: Together,
    ) -> Tensor:
        rest = [axis for axis in range(x.dim()) if axis != 1]
        ctx.shape = [1, x.shape[1], *[1] * (x.dim() - 2)]
        x32 = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        sums = torch.cat([x32.sum(rest), x32.new_tensor([x.numel() / x.shape[1]])])
        together.add_up(sums)
        number = sums[-1]
        mean.copy_(sums[:-1] / number)
        away = x32 - mean.view(ctx.shape)
        squares = away.square().sum(rest)
        together.add_up(squares)
        variance.copy_(squares / (number - 1).clamp(min=1))
        factor = (squares / number + eps).rsqrt()
        y = away * (factor if scale is None else factor * scale).view(ctx.shape)
        if bias is not None:
            y += bias.view(ctx.shape)
        ctx.rest, ctx.together = rest, together
        ctx.save_for_backward(x, scale, mean.clone(), factor, number)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, factor, number = ctx.saved_tensors
        x32, dy = (value.to(mean.dtype) for value in (x, gradients[0]))
        normal = (x32 - mean.view(ctx.shape)) * factor.view(ctx.shape)
        own = torch.stack([dy.sum(ctx.rest), (dy * normal).sum(ctx.rest)])
        d_bias, d_scale = own.clone().unbind()
        if ctx.needs_input_grad[0]:
            ctx.together.add_up(own)
            about, along = (own / number).unbind()
            dx = dy - about.view(ctx.shape) - normal * along.view(ctx.shape)
            dx *= (factor if scale is None else factor * scale).view(ctx.shape)
        return (
            dx.to(x.dtype) if ctx.needs_input_grad[0] else None,
            d_scale if ctx.needs_input_grad[1] else None,
            d_bias if ctx.needs_input_grad[2] else None,
            None, None, None, None,
        )  # fmt: skip
