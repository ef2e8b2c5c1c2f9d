"""SmoothL1Loss and SmoothL1LossOHEM: the loss of boxes.

Half a square near zero, and the distance beyond that.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class SmoothL1Loss(TorchLayer):
    """SSD's: weights times differences; the sum is divided by the size of the first axis."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (errors(bottoms).sum() / bottoms[0].shape[0],)


class SmoothL1LossOHEM(TorchLayer):
    """R-FCN's: divided as ``loss_param`` says; its second top is the loss of each region."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        each = errors(bottoms)
        rows, channels = each.shape[0], each.shape[1]
        positions = each.numel() // (rows * channels)
        loss = each.sum() / self._divisor(rows, positions)
        if self.place.site.tops == 1:
            return (loss,)
        shape = self.place.shapes(bottoms)[1]
        return loss, each.detach().reshape(rows, channels, -1).sum(1).view(shape)

    def _divisor(self, rows: int, positions: int) -> float:
        s = self.place.message.loss_param
        if s.HasField("normalize") and not s.HasField("normalization"):
            return float(max(1, rows * positions if s.normalize else rows))
        given = {s.BATCH_SIZE: rows, s.NONE: 1, s.PRE_FIXED: s.pre_fixed_normalizer}
        return float(max(1, given.get(s.normalization, rows * positions)))


class WeightedSmoothL1Loss(SmoothL1LossOHEM):
    """Faster R-CNN's: with weights inside and outside; R-FCN's where that is what it is."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        if len(bottoms) == 3 or self.place.site.tops == 2:
            return super().forward(bottoms, blobs)
        sigma = self.place.message.smooth_l1_loss_param.sigma
        each = errors(bottoms[:3], sigma)
        if len(bottoms) == 4:
            each = each * bottoms[3].detach()
        return (each.sum() / bottoms[0].shape[0],)


def errors(bottoms: Tensors, sigma: float = 1) -> Tensor:
    """The error of each element: of prediction and target, perhaps with a weight.

    Args:
        bottoms: Predictions, targets, and perhaps what their differences are multiplied with.
        sigma: The square begins within 1 / sigma^2 of zero.
    """
    predictions, targets = bottoms[:2]
    difference = predictions - targets.view(predictions.shape)
    if len(bottoms) > 2:
        difference = difference * bottoms[2].detach().view(predictions.shape)
    zero = difference.new_zeros(()).expand_as(difference)
    return functional.smooth_l1_loss(difference, zero, reduction="none", beta=1 / sigma**2)
