"""Concat and Slice: blobs joined and cut along one axis."""

from __future__ import annotations

import torch

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Concat(TorchLayer):
    def needs(self) -> tuple[bool, ...]:
        """With one bottom the memory of the gradient is shared."""
        return (True,) if len(self.place.site.bottoms) == 1 else super().needs()

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.concat_param
        axis = s.concat_dim if s.HasField("concat_dim") else s.axis
        return (torch.cat(list(bottoms), axis) if len(bottoms) > 1 else bottoms[0],)


class Slice(TorchLayer):
    def needs(self) -> tuple[bool, ...]:
        """With one top the memory of the gradient is shared."""
        return (True,) if self.place.site.tops == 1 else super().needs()

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.slice_param
        axis = s.slice_dim if s.HasField("slice_dim") else s.axis
        sizes = [shape[axis] for shape in self.place.shapes(bottoms)]
        return torch.split(bottoms[0], sizes, axis)
