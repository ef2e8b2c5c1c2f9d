"""RNN: tanh for the hidden state, tanh for the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors
from caffe_batch.engines.torch.layers.recurrent import Recurrent


class RNN(Recurrent):
    hidden = 1

    def step(
        self, x: Tensor, state: Sequence[Tensor], cont: Tensor, weights: Tensors
    ) -> tuple[Tensor, list[Tensor]]:
        between, out, bias = weights
        hidden = torch.tanh(functional.linear(state[0] * cont, between) + x)
        return torch.tanh(functional.linear(hidden, out, bias)), [hidden]
