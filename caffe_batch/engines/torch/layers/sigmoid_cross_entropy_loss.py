"""SigmoidCrossEntropyLoss: a Sigmoid inside, and the cross entropy with targets."""

from __future__ import annotations

import torch
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.layers.labels import mean


class SigmoidCrossEntropyLoss(TorchLayer):
    """Its normalization is BATCH_SIZE if none is given."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.settings
        x = bottoms[0]
        targets = bottoms[1].detach().view(x.shape)
        losses = functional.binary_cross_entropy_with_logits(x, targets, reduction="none")
        counts = None
        if s.ignore_label is not None:
            counts = targets.int() != s.ignore_label
            losses = torch.where(counts, losses, 0)
        return (mean(losses, counts, s, self.together, default="BATCH_SIZE", outer=x.shape[0]),)
