"""BoxAnnotatorOHEM and SoftmaxWithLossOHEM: R-FCN's online mining of hard examples."""

from __future__ import annotations

import torch

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.layers.labels import by_class, mean
from caffe_batch.engines.torch.layers.softmax_loss import limited_losses


class BoxAnnotatorOHEM(TorchLayer):
    """Keeps the labels of those regions of each sample that have the largest loss.

    Which of equal losses counts is for Caffe's sort to say; here the first one does.
    """

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        regions, losses, labels, weights = [bottom.detach() for bottom in bottoms]
        s = self.place.message.box_annotator_ohem_param
        rows = regions.shape[0]
        of = regions.reshape(rows, 5, -1)[:, 0].flatten()
        order = losses.flatten().argsort(descending=True, stable=True)
        kept = torch.zeros_like(of, dtype=torch.bool)
        for sample in sorted(set(of.tolist())):
            kept[order[of[order] == sample][: s.roi_per_img]] = True
        top_labels, top_weights = self.place.shapes(bottoms)
        chosen = kept.view(rows, 1, -1)
        return (
            torch.where(kept, labels.flatten(), s.ignore_label).view(top_labels),
            torch.where(chosen, weights.reshape(rows, weights.shape[1], -1), 0).view(top_weights),
        )


class SoftmaxWithLossOHEM(TorchLayer):
    """Its second top is the probabilities, its third one the loss of each label."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.settings
        scores, labels, counts = by_class(bottoms[0], bottoms[1], s.axis, s.ignore_label)
        losses = torch.where(counts, limited_losses(scores, labels), 0)
        ignores = None if s.ignore_label is None else counts
        loss = mean(losses, ignores, s, self.together, default="VALID", outer=scores.shape[0])
        shapes = self.place.shapes(bottoms)
        more = (scores.detach().softmax(1), losses.detach())
        return (loss, *[top.view(shape) for top, shape in zip(more, shapes[1:], strict=False)])
