"""HingeLoss and MultinomialLogisticLoss."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, imitate
from caffe_batch.engines.torch.layers.softmax_loss import LEAST_PROBABILITY


class HingeLoss(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.hinge_loss_param
        scores = bottoms[0].flatten(1)
        labels = bottoms[1].long().flatten()
        signs = torch.ones_like(scores).scatter_(1, labels[:, None], -1)
        margins = torch.relu(1 + scores * signs)
        total = margins.square().sum() if s.norm == s.L2 else margins.sum()
        return (total / scores.shape[0],)


class MultinomialLogisticLoss(TorchLayer):
    """-log(p), where a p below 1e-20 counts as that, also in the gradient."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        rows = bottoms[0].flatten(1)
        picked = rows.gather(1, bottoms[1].long().flatten()[:, None])
        limited = picked.detach().clamp(min=LEAST_PROBABILITY)

        def backward(gradient: Tensor) -> tuple[Tensor]:
            return (-gradient / limited,)

        return (imitate(-limited.log(), backward, picked).sum() / rows.shape[0],)
