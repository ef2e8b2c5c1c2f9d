"""LSTM and the LSTMUnit that it runs at every time step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.layers.recurrent import Recurrent


class LSTM(Recurrent):
    hidden = 2

    def step(
        self, x: Tensor, state: Sequence[Tensor], cont: Tensor, weights: Tensors
    ) -> tuple[Tensor, list[Tensor]]:
        hidden, cell = state
        gates = functional.linear(hidden * cont, weights[0]) + x
        cell, hidden = unit(cell, gates, cont)
        return hidden, [hidden, cell]


class LSTMUnit(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        cell, gates, cont = bottoms
        return unit(cell, gates, cont[..., None])


def unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """The next cell and hidden state; the gates lie in the order input, forget, output, input."""
    enter, forget, leave, candidate = gates.chunk(4, -1)
    kept = torch.sigmoid(forget) * cont * cell
    cell = kept + torch.sigmoid(enter) * torch.tanh(candidate)
    return cell, torch.sigmoid(leave) * torch.tanh(cell)
