"""HingeLoss and MultinomialLogisticLoss."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer, imitate
from caffe_batch.engines.torch.layers.softmax_loss import LEAST_PROBABILITY


class HingeLoss(TorchLayer):
    """Caffe's Forward calculates the margins in the gradient of the scores.

    Where its Backward doesn't replace them (a loss weight of 0, propagate_down: false), and the
    scores have other readers, the margins are added to the gradient of those.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        site = place.site
        self.scribbles = site.phase == "TRAIN" and not (site.backward and site.bottom_need[0])

    def needs(self) -> tuple[bool, ...]:
        return (True, False)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.hinge_loss_param
        scores = bottoms[0].flatten(1)
        if self.scribbles:
            scores = scores.detach()
        labels = bottoms[1].long().flatten()
        signs = torch.ones_like(scores).scatter_(1, labels[:, None], -1)
        margins = torch.relu(1 + scores * signs)
        if self.scribbles:
            self.aside = (bottoms[0].flatten(1) * margins).sum()
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
