"""BatchNorm: normalisation over the batch. Source: batch_norm_layer.cpp, .cu.

The parameters are statistics (mean, variance, and the weight of the moving sums); Caffe sets their
lr_mult to 0 itself. The third is read and written on the host only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    ChannelChange,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
)
from caffe_batch.layers.sides import bottom, own, param, top


@dataclass(frozen=True, slots=True)
class BatchNormSettings:
    use_global_stats: bool | None = None
    moving_average_fraction: float = 0.999
    eps: float = 1e-5


class BatchNorm(Rule):
    type = "BatchNorm"
    message = "batch_norm_param"
    settings = BatchNormSettings
    fixed_parameters = True
    moving_average = "moving_average_fraction"
    known_statistics = "use_global_stats"
    works_in_place = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        bottom = site.bottoms[0]
        if len(bottom) < 2 or 0 in bottom[:2]:
            raise ShapeError(f"BatchNorm needs an input with batch and channels, not {bottom}")
        return site.bottoms

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        channels = site.bottoms[0][1]
        return ((channels,), (channels,), (1,))

    def coupling(self, site: Site) -> Coupling:
        s: BatchNormSettings = site.settings
        others = tuple(axis for axis in range(len(site.bottoms[0])) if axis != 1)
        if site.phase == "TEST" if s.use_global_stats is None else s.use_global_stats:
            return Coupling(joint=(1,))  # one mean and variance per channel, known beforehand
        return Coupling(joint=others, statistics=True, decay=s.moving_average_fraction)

    def channel_change(
        self, settings: BatchNormSettings, blobs: Sequence[Any]
    ) -> ChannelChange | None:
        """Its averages, unless it is told to use the batch's own in a TEST net as well."""
        if settings.use_global_stats is False or len(blobs) != 3:
            return None
        mean, variance, weight = blobs
        scale = 1 / weight.ravel()[0] if weight.ravel()[0] else 0.0
        factor = (variance.ravel() * scale + settings.eps) ** -0.5
        return ChannelChange(factor, -mean.ravel() * scale * factor)

    def memory(self, site: Site, mode: Mode) -> Memory:
        shape = site.bottoms[0]
        batch, channels = shape[:2]
        size = count(shape)
        buffers = (
            Buffer("mean_", channels),
            Buffer("variance_", channels),
            Buffer("temp_", size),
            Buffer("x_norm_", size),
            Buffer("num_by_chans_", batch * channels),
            Buffer("batch_sum_multiplier_", batch),
            Buffer("spatial_sum_multiplier_", size // (batch * channels)),
        )
        forward = [bottom(0).data, top(0).data, param(0).data, param(1).data]
        if mode == "cpu":
            forward.append(param(2).data)
        backward = [top(0).diff, bottom(0).diff]
        if site.in_place[0]:
            backward.append(own("x_norm_").diff)  # a copy of the top's diff, which is overwritten
        multipliers = (own("batch_sum_multiplier_").data, own("spatial_sum_multiplier_").data)
        return Memory(
            buffers=buffers,
            build=multipliers if mode == "cpu" else (),
            forward=(*forward, *(buffer.data for buffer in buffers)),
            backward=tuple(backward),
        )
