"""Split and Silence: copies, which autograd needs none of, and a reader that does nothing."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Split(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (bottoms[0],) * self.place.site.tops


class Silence(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return ()
