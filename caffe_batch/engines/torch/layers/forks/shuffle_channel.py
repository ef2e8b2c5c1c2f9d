"""ShuffleChannel: the channels of groups in turn."""

from __future__ import annotations

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class ShuffleChannel(Plain):
    def function(self, x: Tensor) -> Tensor:
        group: int = self.place.settings.group
        groups = x.reshape(x.shape[0], group, x.shape[1] // group, *x.shape[2:])
        return groups.transpose(1, 2).reshape(x.shape)
