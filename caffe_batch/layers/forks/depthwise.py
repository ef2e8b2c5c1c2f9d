"""ConvolutionDepthwise and DepthwiseConvolution: a filter of its own for each channel.

Source: sp2823/caffe (convolution-depthwise), conv_dw_layer.cpp, .cu;
yonghenglh6/DepthwiseConvolution, depthwise_conv_layer.cpp, .cu.
"""

from __future__ import annotations

from dataclasses import replace

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    MAX_COUNT,
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    filled,
    four_axes,
)
from caffe_batch.layers.convolution import Convolution
from caffe_batch.layers.sides import Side, bottom, own, param, top
from caffe_batch.layers.spatial import ConvolutionSettings, window


class DepthwiseConvolution(Convolution):
    """Caffe's Convolution with ``group``, but with kernels of its own on the GPU: no columns.

    There it takes the pointers of all gradients, needed or not.
    """

    type = "DepthwiseConvolution"
    follows = "yonghenglh6/DepthwiseConvolution: depthwise_conv_layer.cpp, .cu"

    def memory(self, site: Site, mode: Mode) -> Memory:
        if mode == "cpu":
            return super().memory(site, mode)
        s: ConvolutionSettings = site.settings
        params = (0, 1) if s.bias_term else (0,)
        forward = [param(number).data for number in params]
        backward = [param(number).diff for number in params]
        for number in range(site.tops):
            forward += [bottom(number).data, top(number).data]
            backward += [top(number).diff, bottom(number).diff]
        return Memory(forward=tuple(forward), backward=tuple(backward))

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        """It has no cuDNN engine."""
        return memory


class ConvolutionDepthwise(Rule):
    """As many filters as channels, whatever ``num_output`` says.

    Its GPU code lays out the gradient of the weights sample by sample: a buffer as large as the
    output times the kernel.
    """

    type = "ConvolutionDepthwise"
    message = "convolution_param"
    settings = ConvolutionSettings
    follows = "sp2823/caffe: conv_dw_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        top = self._top(site)
        products = count(top) * count(self._kernel(site))
        if products > MAX_COUNT:
            raise ShapeError(
                f"its buffer of products has {products} elements; Caffe's limit is {MAX_COUNT}",
                hint="A smaller batch_size (and a larger iter_size) stays below it.",
            )
        return (top,)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: ConvolutionSettings = site.settings
        channels = four_axes(site.bottoms[0])[1]
        weights = filled((channels, 1, *self._kernel(site)), s.weight_filler)
        return (weights, filled((channels,), s.bias_filler)) if s.bias_term else (weights,)

    def coupling(self, site: Site) -> Coupling:
        s: ConvolutionSettings = site.settings
        return Coupling(joint=(1, 2, 3), linear=not s.bias_term, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: ConvolutionSettings = site.settings
        samples, channels, height, width = self._top(site)
        positions = samples * height * width
        buffers = [
            Buffer("weight_buffer_", channels * positions * count(self._kernel(site))),
            Buffer("weight_multiplier_", positions),
            Buffer("bias_buffer_", channels * positions),
            Buffer("bias_multiplier_", positions),
        ]
        used = ("weight", "bias") if s.bias_term else ("weight",)
        backward: list[Side] = [top(0).diff, bottom(0).diff]
        for number, name in enumerate(used):
            if site.param_need[number]:
                backward.append(param(number).diff)
                if mode == "gpu":
                    backward += [own(f"{name}_buffer_").data, own(f"{name}_multiplier_").data]
        build = [own(f"{name}_multiplier_").data for name in used] if mode == "cpu" else []
        parameters = [param(number).data for number in range(len(used))]
        return Memory(
            buffers=tuple(buffers[: 2 * len(used)]),
            build=tuple(build),
            forward=(bottom(0).data, top(0).data, *parameters),
            backward=tuple(backward),
        )

    def _kernel(self, site: Site) -> Shape:
        return window(_plain(site.settings), four_axes(site.bottoms[0])).kernel

    def _top(self, site: Site) -> Shape:
        shape = four_axes(site.bottoms[0])
        return (*shape[:2], *window(_plain(site.settings), shape).positions(shape[2:]))


def _plain(s: ConvolutionSettings) -> ConvolutionSettings:
    """The settings without the axis, which it doesn't read.

    Raises:
        ShapeError: Stride or padding isn't written, which it reads all the same.
    """
    for name, given in (("stride", s.stride or s.stride_h), ("pad", s.pad or s.pad_h is not None)):
        if not given:
            raise ShapeError(
                f"ConvolutionDepthwise needs {name}, even the default",
                hint=f"Write {name}: {1 if name == 'stride' else 0}; without it this layer reads "
                "past its settings.",
            )
    return replace(s, axis=1)
