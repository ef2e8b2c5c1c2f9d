"""BatchNorm: normalisation over the batch. Source: batch_norm_layer.cpp, .cu.

The parameters are statistics (mean, variance, and the weight of the moving sums); Caffe sets their
lr_mult to 0 itself. The third is read and written on the host only.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Coupling, Memory, Mode, Rule, Shape, Site, count
from caffe_batch.layers.sides import bottom, own, param, top


@dataclass(frozen=True, slots=True)
class BatchNormSettings:
    use_global_stats: bool | None = None
    moving_average_fraction: float = 0.999


class BatchNorm(Rule):
    type = "BatchNorm"
    message = "batch_norm_param"
    settings = BatchNormSettings
    fixed_parameters = True
    moving_average = "moving_average_fraction"
    known_statistics = "use_global_stats"

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
