"""Axpy: a number for each channel, times a feature map, plus another one (SENet).

Source: hujie-frank/SENet, axpy_layer.cpp, .cu.
"""

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
    count,
    needed_diffs,
)
from caffe_batch.layers.sides import bottom, own, top


class Axpy(Rule):
    type = "Axpy"
    bottoms = (3, 3)
    follows = "hujie-frank/SENet: axpy_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        scale, data, added = site.bottoms
        if len(data) < 2 or scale[:2] != data[:2] or (len(scale) == 4 and scale[2:] != (1, 1)):
            raise ShapeError(
                f"bottom 0 {scale} must have one number for each sample and channel of {data}"
            )
        if data != added:
            raise ShapeError(f"bottom 1 {data} and bottom 2 {added} must have the same shape")
        return (data,)

    def coupling(self, site: Site) -> Coupling:
        return Coupling()

    def memory(self, site: Site, mode: Mode) -> Memory:
        gradients = needed_diffs(site)
        backward = [top(0).diff, *gradients]
        if mode == "cpu" and site.bottom_need[0]:  # it computes in the gradient of bottom 1
            backward.append(bottom(1).diff)
        return Memory(
            buffers=(Buffer("spatial_sum_multiplier_", count(site.bottoms[1][2:])),),
            build=(own("spatial_sum_multiplier_").data,) if mode == "cpu" else (),
            forward=(bottom(0).data, bottom(1).data, bottom(2).data, top(0).data),
            backward=tuple(backward),
        )
