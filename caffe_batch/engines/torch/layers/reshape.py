"""Flatten and Reshape: the same elements under another shape."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Reshape(TorchLayer):
    """The rule says which shape; the same for Flatten."""

    def needs(self) -> tuple[bool, ...]:
        """Bottom and top share the memory of their gradient, whatever propagate_down says."""
        return (True,)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (bottoms[0].reshape(self.place.shapes(bottoms)[0]),)


class Flatten(Reshape):
    def needs(self) -> tuple[bool, ...]:
        """Its Backward shares the memory, without looking at propagate_down."""
        return (self.place.site.backward,)
