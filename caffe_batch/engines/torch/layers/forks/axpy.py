"""Axpy: a number for each channel, times a feature map, plus another one."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class Axpy(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        scale, x, added = bottoms
        factors = scale.reshape(*x.shape[:2], *(1,) * (x.dim() - 2))
        return (factors * x + added,)
