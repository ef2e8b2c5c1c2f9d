"""Types of Caffe 1.0 as SegNet has them: Dropout in tests, a loss with a weight for each class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Plain, Tensors, TorchLayer
from caffe_batch.engines.torch.layers.labels import by_class
from caffe_batch.engines.torch.layers.softmax_loss import limited_losses


class SampledDropout(Plain):
    """Drops in TEST as well if ``sample_weights_test`` says so."""

    drawn = True

    def function(self, x: Tensor) -> Tensor:
        ratio = self.place.message.dropout_param.dropout_ratio
        drops = self.place.rule.draws(self.place.settings, self.place.site.phase)
        return functional.dropout(x, ratio, training=drops)


class WeightedLoss(TorchLayer):
    """The loss of each label times the weight of its class; divided by the labels that count.

    With ``normalize: false`` by the samples. ``normalization`` is not among its settings.
    """

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.settings
        scores, labels, counts = by_class(bottoms[0], bottoms[1], s.axis, s.ignore_label)
        losses = torch.where(counts, limited_losses(scores, labels), 0)
        if s.weight_by_label_freqs:
            losses = losses * losses.new_tensor(s.class_weighting)[labels]
        divisor = scores.shape[0] if s.normalize is False else counts.sum()
        loss = losses.sum() / divisor
        if self.place.site.tops == 1:
            return (loss,)
        return loss, scores.detach().softmax(1).view(bottoms[0].shape)
