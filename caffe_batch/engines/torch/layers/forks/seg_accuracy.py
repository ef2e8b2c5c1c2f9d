"""SegAccuracy: the share of right pixels, the mean recall and the mean overlap of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.errors import InputError


class SegAccuracy(TorchLayer):
    """From a table of labels and predictions; with ``reset: false`` of all passes so far.

    Of equal scores the last class counts. A class that is neither there nor predicted has an
    overlap of 1.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.drawn = not place.settings.reset
        self._counts: Tensor | None = None

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        scores, labels = bottoms[0].detach(), bottoms[1].detach().long().flatten()
        classes = scores.shape[1]
        found = classes - 1 - scores.flip(1).argmax(1).flatten()
        ignored = torch.tensor(
            list(self.place.message.seg_accuracy_param.ignore_label), device=labels.device
        )
        counted = ~torch.isin(labels, ignored)
        labels, found = labels[counted], found[counted]
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise InputError(
                f"layer {self.place.name!r}: labels from {int(labels.min())} to "
                f"{int(labels.max())} for {classes} classes",
                hint="ignore_label says which labels don't count.",
            )
        counts = torch.bincount(labels * classes + found, minlength=classes**2).double()
        counts = counts.view(classes, classes)
        if not self.place.settings.reset:
            counts = counts if self._counts is None else counts + self._counts
            self._counts = counts
        right, there = counts.diagonal(), counts.sum(1)
        either = there + counts.sum(0) - right
        recall = (right / there)[there > 0]
        scores = torch.stack([
            right.sum() / counts.sum() if counts.sum() else counts.sum(),
            recall.mean() if recall.numel() else counts.sum(),
            torch.where(right == either, 1, right / either).mean(),
        ])  # fmt: skip
        return (scores.to(bottoms[0].dtype).view(1, 1, 1, 3),)
