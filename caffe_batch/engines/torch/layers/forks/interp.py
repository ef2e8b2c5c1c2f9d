"""Interp: bilinear scaling, with the corners of top and bottom on each other."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Plain


class Interp(Plain):
    """``pad_beg`` and ``pad_end`` are 0 or less: a crop."""

    def function(self, x: Tensor) -> Tensor:
        s = self.place.settings
        (shape,) = self.place.shapes((x,))
        crop = (s.pad_beg, s.pad_end) * 2
        x = functional.pad(x, crop) if any(crop) else x
        return functional.interpolate(x, tuple(shape[2:]), mode="bilinear", align_corners=True)
