"""BatchReindex and Filter: some of the samples of a batch, chosen by another blob."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer


class BatchReindex(TorchLayer):
    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        data, indices = bottoms
        return (data.index_select(0, indices.long()),)


class Filter(TorchLayer):
    """The last bottom selects: the samples at which it isn't 0."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        *data, selector = bottoms
        chosen = selector.flatten().nonzero().flatten()
        return [bottom.index_select(0, chosen) for bottom in data]
