"""InnerProduct: a fully connected layer over all axes from a given one on."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, weights_and_bias
from caffe_batch.schema import caffe_pb2


class InnerProduct(TorchLayer):
    fresh = True

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return weights_and_bias(self.place.message.inner_product_param)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.inner_product_param
        x = bottoms[0]
        axis = s.axis % x.dim()
        weights = blobs[0].t() if s.transpose else blobs[0]
        y = functional.linear(x.flatten(axis) if axis < x.dim() - 1 else x, weights, *blobs[1:])
        return (y,)
