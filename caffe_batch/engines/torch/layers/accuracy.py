"""Accuracy: the share of samples whose label is among the top_k."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.layers.labels import by_class


class Accuracy(TorchLayer):
    """A score that equals the label's counts as better: with equal scores nobody is right."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.accuracy_param
        ignored = s.ignore_label if s.HasField("ignore_label") else None
        scores, labels, counts = by_class(bottoms[0].detach(), bottoms[1], s.axis, ignored)
        own = scores.gather(1, labels[:, None])
        right = ((scores >= own).sum(1) <= s.top_k) & counts
        number, dtype = counts.sum().to(scores.dtype), scores.dtype
        share = right.sum().to(dtype) / number.clamp(min=1)
        if self.place.site.tops == 1:
            return (share,)
        nothing = scores.new_zeros(scores.shape[1])
        hits = nothing.index_add(0, labels.flatten(), right.flatten().to(dtype))
        given = nothing.index_add(0, labels.flatten(), counts.flatten().to(dtype))
        return share, hits / given.clamp(min=1)
