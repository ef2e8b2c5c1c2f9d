"""Convolution and Deconvolution. Source: base_conv_layer.cpp, conv_layer.*, deconv_layer.*.

Both work image by image through one column buffer, whose size doesn't depend on the batch.
Deconvolution runs the same code with input and output swapped. Its GPU code fetches the gradient
of its input whether it is needed or not, as the CPU code of both does; only conv_layer.cu checks.

With cuDNN there is a workspace instead of columns (cudnn_conv_layer.*, cudnn_deconv_layer.*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    MAX_COUNT,
    Buffer,
    ChannelChange,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axes_from,
    count,
    filled,
    needed_diffs,
    without_buffers,
)
from caffe_batch.layers.facts import Arithmetic
from caffe_batch.layers.sides import Side, bottom, own, param, top
from caffe_batch.layers.spatial import ConvolutionSettings, Window, window

#: The largest workspace that Caffe allows each of cuDNN's algorithms (cudnn_conv_layer.cpp).
WORKSPACE_LIMIT_BYTES = 8 * 2**20
#: Each group has one workspace for each of forward, weight gradient and input gradient.
WORKSPACES_PER_GROUP = 3


class Convolution(Rule):
    type = "Convolution"
    message = "convolution_param"
    settings = ConvolutionSettings
    bottoms = (1, None)
    tops = (1, None)
    reverse = False
    arithmetic = Arithmetic.CONVOLUTION

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ConvolutionSettings = site.settings
        bottom = site.bottoms[0]
        win = window(s, bottom)
        _check_channels(s, bottom[win.axis])
        _check_bottoms(site)
        spatial = self._spatial(win, bottom[win.axis + 1 :])
        columns = self._columns(s, win, bottom, spatial)
        if columns > MAX_COUNT:
            raise ShapeError(
                f"the column buffer of one image has {columns} elements; Caffe's limit is "
                f"{MAX_COUNT}",
                hint="That doesn't depend on the batch size: make the image or the kernel smaller.",
            )
        return ((*bottom[: win.axis], s.num_output, *spatial),) * site.tops

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: ConvolutionSettings = site.settings
        win = window(s, site.bottoms[0])
        inputs, outputs = site.bottoms[0][win.axis], s.num_output
        if self.reverse:
            inputs, outputs = outputs, inputs
        weights = filled((outputs, inputs // s.group, *win.kernel), s.weight_filler)
        return (weights, filled((s.num_output,), s.bias_filler)) if s.bias_term else (weights,)

    def coupling(self, site: Site) -> Coupling:
        s: ConvolutionSettings = site.settings
        joint = axes_from(s.axis, site.bottoms[0])
        return Coupling(joint=joint, linear=not s.bias_term, affine=True)

    def with_change(
        self, settings: ConvolutionSettings, blobs: Sequence[Any], change: ChannelChange
    ) -> list[Any] | None:
        """The outputs are on axis 0 of the weights; of a Deconvolution's, by groups, on axis 1."""
        outputs, groups = settings.num_output, settings.group
        if settings.axis != 1 or not blobs or len(change.factor) != outputs:
            return None
        weights = blobs[0]
        if self.reverse:
            parts = weights.reshape(groups, -1, *weights.shape[1:])
            factor = change.factor.reshape(groups, 1, -1, *(1,) * (weights.ndim - 2))
            scaled = (parts * factor).reshape(weights.shape)
        else:
            scaled = weights * change.factor.reshape(-1, *(1,) * (weights.ndim - 1))
        bias = blobs[1].ravel() if len(blobs) > 1 else 0.0
        return [scaled, bias * change.factor + change.shift]

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: ConvolutionSettings = site.settings
        shape = site.bottoms[0]
        win = window(s, shape)
        spatial = self._spatial(win, shape[win.axis + 1 :])
        axes = len(spatial)
        buffers = [
            Buffer("col_buffer_", self._columns(s, win, shape, spatial)),
            Buffer("bias_multiplier_", count(spatial)),
        ]
        build: list[Side] = []
        forward = [param(0).data]
        backward = [param(0).diff]
        for i in range(site.tops):
            forward += [bottom(i).data, top(i).data]
            backward.append(top(i).diff)
            asks_first = mode == "gpu" and not self.reverse
            if not asks_first or site.param_need[0] or site.bottom_need[i]:
                backward.append(bottom(i).diff)
        if s.bias_term:
            forward += [param(1).data, own("bias_multiplier_").data]
            build.append(own("bias_multiplier_").data)
            if site.param_need[1]:
                backward.append(param(1).diff)
        if self.reverse or not win.pointwise:
            forward.append(own("col_buffer_").data)
        elif any(site.bottom_need):
            # The gradient of the input takes the pointer before it checks for a 1x1 kernel.
            backward.append(own("col_buffer_").data)
        if not win.pointwise and (s.force_nd_im2col or axes != 2):
            # The general kernels read the geometry from the device, as small int blobs.
            geometry = [Buffer(name, axes) for name in ("kernel_shape_", "stride_", "pad_")]
            geometry.append(Buffer("dilation_", axes))
            geometry.append(Buffer("conv_input_shape_", axes + 1))
            geometry.append(Buffer("col_buffer_.shape", axes + 1))
            buffers += geometry
            forward += [buffer.data for buffer in geometry]
        return Memory(
            buffers=tuple(buffers),
            build=tuple(build) if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        s: ConvolutionSettings = site.settings
        dilation = window(s, site.bottoms[0]).dilation
        dilated = any(hole > 1 for hole in dilation)
        if s.engine == "CAFFE" or (s.engine == "DEFAULT" and dilated):
            return memory
        if dilated:
            raise ShapeError(
                f"Caffe doesn't dilate with cuDNN: dilation {dilation}, engine: CUDNN",
                hint="Leave the engine out; Caffe then uses its own.",
            )
        axes = len(window(s, site.bottoms[0]).kernel)
        if axes != 2:
            raise ShapeError(
                f"the cuDNN engine needs 2 spatial axes, but the input has {axes}",
                hint="Write engine: CAFFE.",
            )
        backward = [top(i).diff for i in range(site.tops)]
        backward += [param(i).diff for i, need in enumerate(site.param_need) if need]
        plain = without_buffers(memory, *[buffer.name for buffer in memory.buffers])
        return replace(
            plain,
            backward=(*backward, *needed_diffs(site)),
            workspace=(0, WORKSPACE_LIMIT_BYTES * WORKSPACES_PER_GROUP * s.group),
        )

    def _spatial(self, win: Window, spatial: Shape) -> Shape:
        """The spatial axes of the top."""
        return win.positions(spatial)

    def _columns(self, s: ConvolutionSettings, win: Window, bottom: Shape, spatial: Shape) -> int:
        """Elements of the column buffer (for one image)."""
        return bottom[win.axis] * count(win.kernel) * count(spatial)


class Deconvolution(Convolution):
    type = "Deconvolution"
    reverse = True

    def _spatial(self, win: Window, spatial: Shape) -> Shape:
        sizes = tuple(
            [
                stride * (size - 1) + extent - 2 * pad
                for size, stride, extent, pad in zip(
                    spatial, win.stride, win.extents, win.pad, strict=True
                )
            ]
        )
        if min(sizes, default=1) < 1:
            raise ShapeError(
                f"the padding {win.pad} is larger than what the kernel adds: the output would be "
                f"{sizes}",
                hint="Use less padding.",
            )
        return sizes

    def _columns(self, s: ConvolutionSettings, win: Window, bottom: Shape, spatial: Shape) -> int:
        return s.num_output * count(win.kernel) * count(bottom[win.axis + 1 :])


def _check_channels(s: ConvolutionSettings, channels: int) -> None:
    if s.num_output == 0:
        raise ShapeError("convolution_param needs num_output, at least 1")
    if s.group == 0:
        raise ShapeError("group must be at least 1")
    for what, size in (("input channels", channels), ("num_output", s.num_output)):
        if size % s.group:
            raise ShapeError(
                f"group {s.group} doesn't divide the {what}: {size}",
                hint="Use a group that divides both the input channels and num_output.",
            )


def _check_bottoms(site: Site) -> None:
    if site.tops != len(site.bottoms):
        raise ShapeError(
            f"{len(site.bottoms)} bottoms need the same number of tops, not {site.tops}"
        )
    for shape in site.bottoms:
        if shape != site.bottoms[0]:
            raise ShapeError(
                f"all bottoms must have the same shape: {site.bottoms[0]} is not {shape}"
            )
