"""Permute: the axes in another order."""

from __future__ import annotations

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Plain


class Permute(Plain):
    """Axes that aren't named come last, as they were."""

    def function(self, x: Tensor) -> Tensor:
        order = tuple(self.place.settings.order)
        rest = [axis for axis in range(x.dim()) if axis not in order]
        return x.permute(*order, *rest)
