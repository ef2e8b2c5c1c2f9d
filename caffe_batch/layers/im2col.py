"""Im2col: the columns of a convolution, for the whole batch. Source: im2col_layer.cpp, .cu."""

from __future__ import annotations

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axes_from,
    count,
)
from caffe_batch.layers.sides import bottom, top
from caffe_batch.layers.spatial import ConvolutionSettings, window


class Im2col(Rule):
    type = "Im2col"
    message = "convolution_param"
    settings = ConvolutionSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        bottom = site.bottoms[0]
        win = window(site.settings, bottom)
        if not win.kernel:
            raise ShapeError(f"Im2col needs a spatial axis after axis {win.axis} of {bottom}")
        channels = bottom[win.axis] * count(win.kernel)
        return ((*bottom[: win.axis], channels, *win.positions(bottom[win.axis + 1 :])),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=axes_from(site.settings.axis, site.bottoms[0]))

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: ConvolutionSettings = site.settings
        shape = site.bottoms[0]
        axes = len(window(s, shape).kernel)
        geometry: list[Buffer] = []
        if s.force_nd_im2col or axes != 2:
            # The general kernels read the geometry from the device, as small int blobs.
            geometry = [Buffer(n, axes) for n in ("kernel_shape_", "stride_", "pad_", "dilation_")]
            geometry += [Buffer(f"{blob}.shape", len(shape)) for blob in ("bottom0", "top0")]
        return Memory(
            buffers=tuple(geometry),
            forward=(bottom(0).data, top(0).data, *(b.data for b in geometry)),
            backward=(top(0).diff, bottom(0).diff),
        )
