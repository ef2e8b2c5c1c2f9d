"""ArgMax: the indices of the largest values."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class ArgMax(Plain):
    """Of equal values the later one comes first (Caffe sorts pairs of value and index)."""

    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.argmax_param
        x = x.detach()
        if s.HasField("axis"):
            values, indices = _largest(x.movedim(s.axis, -1), s.top_k)
            return (values if s.out_max_val else indices.to(x.dtype)).movedim(-1, s.axis)
        values, indices = _largest(x.reshape(x.shape[0], -1), s.top_k)
        parts = [indices.to(x.dtype), values] if s.out_max_val else [indices.to(x.dtype)]
        more = (1,) * max(0, x.dim() - 3)
        return torch.stack(parts, 1).reshape(x.shape[0], len(parts), s.top_k, *more)


def _largest(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
    values, places = x.flip(-1).sort(stable=True, dim=-1, descending=True)
    return values[..., :number], x.shape[-1] - 1 - places[..., :number]
