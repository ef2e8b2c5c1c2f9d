"""EuclideanLoss and ContrastiveLoss."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, imitate


class EuclideanLoss(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        first, second = bottoms
        difference = first - second.view(first.shape)
        return (difference.square().sum() / (2 * first.shape[0]),)


class ContrastiveLoss(TorchLayer):
    """Backward divides by the distance + 1e-4, which keeps it finite for equal pairs."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.contrastive_loss_param
        number = bottoms[0].shape[0]
        first, second = (bottom.reshape(number, -1) for bottom in bottoms[:2])
        similar = bottoms[2].reshape(number, -1)[:, :1].int() != 0
        with torch.no_grad():
            difference = first - second
            square = difference.square().sum(1, keepdim=True)
            if s.legacy_version:
                gap = s.margin - square
                apart, pull = gap.clamp(min=0), torch.ones_like(gap)
            else:
                distance = square.sqrt()
                gap = s.margin - distance
                apart, pull = gap.clamp(min=0).square(), gap / (distance + 1e-4)
            loss = torch.where(similar, square, apart).sum() / (2 * number)
            factor = torch.where(similar, 1, torch.where(gap > 0, -pull, 0)) / number
            slope = difference * factor

        def backward(gradient: Tensor) -> tuple[Tensor, Tensor]:
            return slope * gradient, slope * -gradient

        return (imitate(loss, backward, first, second),)
