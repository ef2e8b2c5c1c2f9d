"""Flip: feature maps mirrored."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class Flip(Plain):
    def function(self, x: Tensor) -> Tensor:
        s = self.place.message.flip_param
        axes = [axis for axis, given in ((2, s.flip_height), (3, s.flip_width)) if given]
        return torch.flip(x, axes)
