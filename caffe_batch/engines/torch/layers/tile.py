"""Tile: copies side by side along one axis."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class Tile(Plain):
    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.tile_param
        return torch.cat([x] * s.tiles, s.axis) if s.tiles > 1 else x
