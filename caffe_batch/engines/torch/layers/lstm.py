"""LSTM and the LSTMUnit that it runs at every time step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, imitate
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
    def needs(self) -> tuple[bool, ...]:
        """Caffe's Backward writes both gradients if one is wanted."""
        wanted = any(super().needs()[:2])
        return (wanted, wanted, False)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        cell, gates, cont = bottoms
        return unit(cell, gates, cont[..., None])


def unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """The next cell and hidden state; the gates lie in the order input, forget, output, input.

    Caffe's derivative of the forget gate is that of a Sigmoid even where ``cont``, with which it is
    multiplied, is neither 0 nor 1.
    """
    enter, forget, leave, candidate = gates.chunk(4, -1)
    with torch.no_grad():
        kept = torch.sigmoid(forget) * cont
    slope = kept * (1 - kept)
    kept = imitate(kept, lambda gradient: (gradient * slope,), forget)
    cell = kept * cell + torch.sigmoid(enter) * torch.tanh(candidate)
    return cell, torch.sigmoid(leave) * torch.tanh(cell)
