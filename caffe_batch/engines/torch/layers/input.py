"""DummyData: tops that a filler fills, constants once and all others in every pass."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.fillers import Array, Draws, fill
from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class DummyData(TorchLayer):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        fillers = list(place.message.dummy_data_param.data_filler)
        fillers = fillers or [caffe_pb2.FillerParameter()]
        tops = place.site.tops
        self.top_fillers = fillers * tops if len(fillers) == 1 else fillers
        self.shapes = place.rule.shape(place.site)
        self.drawn = any(filler.type != "constant" for filler in self.top_fillers)
        self.constants: dict[int, Tensor] = {}
        self.draws: Draws | None = None

    def fill(self, draws: Draws) -> list[Array]:
        """Has no parameters; the passes draw from these numbers."""
        self.draws = draws
        return []

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        tops = []
        for i, (filler, shape) in enumerate(zip(self.top_fillers, self.shapes, strict=True)):
            top = self.constants.get(i)
            if top is None:
                values = fill(filler, shape, self.draws or Draws())
                top = torch.as_tensor(values).to(self.place.device, self.place.dtype)
                if filler.type == "constant":
                    self.constants[i] = top
            tops.append(top)
        return tops
