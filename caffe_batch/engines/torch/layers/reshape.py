"""Flatten and Reshape: the same elements under another shape."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Reshape(TorchLayer):
    """The rule says which shape; the same for Flatten."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (bottoms[0].reshape(self.place.shapes(bottoms)[0]),)


class Flatten(Reshape):
    pass
