"""ConvolutionDepthwise and DepthwiseConvolution: a filter of its own for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer, weights_and_bias
from caffe_batch.engines.torch.layers.convolution import Convolution
from caffe_batch.layers.spatial import window
from caffe_batch.schema import caffe_pb2


class DepthwiseConvolution(Convolution):
    """Caffe's Convolution with ``group``."""


class ConvolutionDepthwise(TorchLayer):
    """As many filters as channels, whatever ``num_output`` and ``axis`` say."""

    fresh = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.window = window(replace(place.settings, axis=1), place.site.bottoms[0])

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return weights_and_bias(self.place.message.convolution_param)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, win = bottoms[0], self.window
        bias = blobs[1] if len(blobs) > 1 else None
        return (
            functional.conv2d(
                x, blobs[0], bias, win.stride, win.pad, win.dilation, groups=x.shape[1]
            ),
        )
