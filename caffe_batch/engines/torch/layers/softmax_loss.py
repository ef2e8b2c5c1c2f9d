"""SoftmaxWithLoss and InfogainLoss: a Softmax inside, and the loss of its probabilities.

The value is limited, because Caffe takes the logarithm of max(p, FLT_MIN) (1e-20 in InfogainLoss);
the gradient isn't.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer, imitate
from caffe_batch.engines.torch.layers.labels import by_class, mean
from caffe_batch.net.data.blob_file import blob_shape
from caffe_batch.schema import caffe_pb2

#: -log(FLT_MIN).
LARGEST = -math.log(1.17549435e-38)
#: kLOG_THRESHOLD of loss_layer.hpp.
LEAST_PROBABILITY = 1e-20


def limited_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """The loss of each label: -log of its probability, at most :data:`LARGEST`.

    Args:
        scores: (outer, classes, inner).
        labels: (outer, inner).
    """
    losses = functional.nll_loss(functional.log_softmax(scores, 1), labels, reduction="none")
    limited = losses.detach().clamp(max=LARGEST)
    return losses + (limited - losses.detach())


class SoftmaxWithLoss(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.settings
        scores, labels, counts = by_class(bottoms[0], bottoms[1], s.axis, s.ignore_label)
        losses = limited_losses(scores, labels)
        if s.ignore_label is None:
            return (mean(losses, None, s, self.together, default="VALID", outer=scores.shape[0]),)
        losses = torch.where(counts, losses, 0)
        return (mean(losses, counts, s, self.together, default="VALID", outer=scores.shape[0]),)


class InfogainLoss(TorchLayer):
    """The losses of all classes, weighted by the label's row of a matrix."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.matrix: Tensor | None = None
        if len(place.site.bottoms) == 2:
            path = Path(place.settings.source)
            blob_shape(path)  # which says what is wrong with the file, if anything is
            blob = caffe_pb2.BlobProto.FromString(path.read_bytes())
            self.matrix = torch.from_numpy(np.array(blob.data or blob.double_data, np.float64))

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.settings
        scores, labels, counts = by_class(bottoms[0], bottoms[1], s.axis, s.ignore_label)
        classes = scores.shape[1]
        given = bottoms[2].detach() if self.matrix is None else self.matrix
        matrix = given.to(scores.device, scores.dtype).reshape(classes, classes)
        rows = matrix[labels].movedim(-1, 1) * counts[:, None]
        with torch.no_grad():
            probabilities = functional.softmax(scores, 1)
            logs = probabilities.clamp(min=LEAST_PROBABILITY).log()
            losses = -(rows * logs).sum(1)

        def backward(gradient: Tensor) -> tuple[Tensor]:
            return (gradient[:, None] * (probabilities * rows.sum(1, keepdim=True) - rows),)

        losses = imitate(losses, backward, scores)
        ignores = None if s.ignore_label is None else counts
        loss = mean(losses, ignores, s, self.together, default="VALID", outer=scores.shape[0])
        if self.place.site.tops == 1:
            return (loss,)
        return loss, probabilities.view(bottoms[0].shape)
