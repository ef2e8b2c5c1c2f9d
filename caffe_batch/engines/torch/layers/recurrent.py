"""What LSTM and RNN have in common: steps over time, and a state that is carried on.

Caffe unrolls a net of its own. What follows from that:

- Without ``expose_hidden`` a pass begins with the state that the pass before has left, also in a
  test; no gradient flows from pass to pass. With it, the states are bottoms and tops, and no
  gradient flows through those either.
- All of its parameters get a gradient, whatever their lr_mult.
- Weights shared with an earlier layer reach only the first time step of a TRAIN net. The later
  steps keep the numbers that this layer was filled with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.fillers import Array, Draws, fill
from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer


class Recurrent(TorchLayer):
    """The layer's parameters: input weights, bias, static input weights, then those of a step.

    Attributes:
        hidden: How many states there are.
        state: The states that the next pass begins with; None before the first.
    """

    drawn = True
    hidden: int

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.exposed: bool = place.settings.expose_hidden
        self.static = len(place.site.bottoms) > 2 + self.hidden * self.exposed
        self.state: list[Tensor] | None = None
        self._own: list[Array] = []

    def needs(self) -> tuple[bool, ...]:
        """The net inside writes the gradients of its inputs without looking at propagate_down."""
        backward, states = self.place.site.backward, self.hidden * self.exposed
        return (backward, False, *(backward,) * self.static, *(False,) * states)

    def fill(self, draws: Draws) -> list[Array]:
        """Each time step's layers are filled, although all but the first are replaced."""
        s = self.place.message.recurrent_param
        shapes = self.place.node.param_shapes
        start = 2 + self.static
        fillers = [s.bias_filler if len(shape) == 1 else s.weight_filler for shape in shapes]
        values = [fill(f, shape, draws) for f, shape in zip(fillers, shapes, strict=True)]
        for _ in range(1, self.place.site.bottoms[0][0]):
            for filler, shape in zip(fillers[start:], shapes[start:], strict=True):
                fill(filler, shape, draws)
        self._own = values[start:]
        return values

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, cont = bottoms[:2]
        steps, streams = x.shape[:2]
        inputs = functional.linear(x.flatten(2), blobs[0], blobs[1])
        if self.static:
            inputs = inputs + functional.linear(bottoms[2].flatten(1), blobs[2])
        weights = blobs[2 + self.static :]
        later = self._later(weights)
        if self.exposed:
            state = [hidden.detach()[0] for hidden in bottoms[2 + self.static :]]
        else:
            size = self.place.settings.num_output
            state = self.state or [x.new_zeros(streams, size)] * self.hidden
        tops = []
        for t in range(steps):
            top, state = self.step(inputs[t], state, cont[t][:, None], later if t else weights)
            tops.append(top)
        ends = [hidden.detach() for hidden in state]
        if self.exposed:
            return torch.stack(tops), *(hidden[None] for hidden in ends)
        self.state = ends
        return (torch.stack(tops),)

    def _later(self, weights: Tensors) -> Tensors:
        """The weights of all time steps but the first."""
        node = self.place.node
        start = 2 + self.static
        if self.place.site.phase == "TEST":
            return weights
        return (
            [
                torch.as_tensor(own).to(weight) if shared else weight
                for own, weight, shared in zip(
                    self._own, weights, self.place.shared[start:], strict=True
                )
            ]
            if node.params
            else weights
        )

    @abstractmethod
    def step(
        self, x: Tensor, state: Sequence[Tensor], cont: Tensor, weights: Tensors
    ) -> tuple[Tensor, list[Tensor]]:
        """One time step.

        Args:
            x: The transformed input, (streams, gates).
            state: The states, (streams, outputs) each.
            cont: (streams, 1): 0 where a new sequence begins.
            weights: The step's own parameters.

        Returns:
            The output, and the states for the next step.
        """
