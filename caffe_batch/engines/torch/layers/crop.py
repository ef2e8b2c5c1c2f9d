"""Crop: bottom 0 cut down to the size of bottom 1."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Crop(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.crop_param
        x, reference = bottoms
        first = s.axis % x.dim()
        for axis in range(first, x.dim()):
            offsets = list(s.offset) or [0]
            offset = offsets[axis - first] if len(offsets) > 1 else offsets[0]
            x = x.narrow(axis, offset, reference.shape[axis])
        return (x,)
