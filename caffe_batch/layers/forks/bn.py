"""BN: normalisation over the batch with a learned slope and bias, two layers of one name.

Source: hszhao/PSPNet, yjxiong/caffe (action_recog), happynear/caffe-windows: bn_layer.cpp, .cu,
cudnn_bn_layer.cpp, .cu, with moving averages; alexgkendall/caffe-segnet, TimoSaemann/caffe-enet:
bn_layer.cpp, .cu, which has none: it normalises with the batch's statistics in both phases, or not
at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    filled,
    four_axes,
)
from caffe_batch.layers.sides import Side, bottom, own, param, top


@dataclass(frozen=True, slots=True)
class BNSettings:
    slope_filler: str = "constant"
    bias_filler: str = "constant"
    momentum: float = 0.9
    frozen: bool = False
    engine: str = "DEFAULT"


class BN(Rule):
    """PSPNet's: slope, bias and the moving averages of mean and variance. Frozen, it uses these."""

    type = "BN"
    message = "bn_param"
    settings = BNSettings
    moving_average = "momentum"
    known_statistics = "frozen"
    works_in_place = True
    forks: tuple[str, ...] = ("pspnet",)
    follows = "hszhao/PSPNet: bn_layer.cpp, .cu, cudnn_bn_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        _checked(site)
        return site.bottoms

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: BNSettings = site.settings
        shape = (1, _checked(site)[1], 1, 1)
        return filled(shape, s.slope_filler), filled(shape, s.bias_filler), shape, shape

    def coupling(self, site: Site) -> Coupling:
        s: BNSettings = site.settings
        if s.frozen or site.phase == "TEST":
            return Coupling(joint=(1,))
        others = tuple(axis for axis in range(len(site.bottoms[0])) if axis != 1)
        return Coupling(joint=others, statistics=True, decay=s.momentum)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: BNSettings = site.settings
        samples, channels, height, width = _checked(site)
        size = count(site.bottoms[0])
        buffers = (
            Buffer("broadcast_buffer_", size),
            Buffer("spatial_statistic_", samples * channels),
            Buffer("batch_statistic_", channels),
            Buffer("spatial_sum_multiplier_", height * width),
            Buffer("batch_sum_multiplier_", samples),
            Buffer("x_norm_", size),
            Buffer("x_inv_std_", channels),
        )
        used = [buffer.data for buffer in (buffers[:5] if s.frozen else buffers)]
        parameters = [param(number).data for number in range(4)]
        backward: list[Side] = []
        if not s.frozen:
            for number in range(2):
                if site.param_need[number]:
                    backward += [top(0).diff, param(number).diff]
        if site.bottom_need[0]:
            backward += [top(0).diff, bottom(0).diff]
        return Memory(
            buffers=buffers,
            build=(buffers[3].data, buffers[4].data) if mode == "cpu" else (),
            forward=(bottom(0).data, top(0).data, *parameters, *used),
            backward=tuple(backward),
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        """Two numbers a channel are kept; the backward pass of a frozen layer isn't cuDNN's."""
        s: BNSettings = site.settings
        if s.engine == "CAFFE":
            return memory
        channels = _checked(site)[1]
        plain = (bottom(0).data, top(0).data, *[param(number).data for number in range(4)])
        if s.frozen:
            return replace(
                memory,
                forward=plain,
                backward=(*memory.backward, *[buffer.data for buffer in memory.buffers[:5]])
                if memory.backward
                else (),
            )
        saved = (Buffer("save_mean_", channels), Buffer("save_inv_variance_", channels))
        kept = [buffer.data for buffer in saved] if site.phase == "TRAIN" else []
        gradients = (top(0).diff, bottom(0).diff, param(0).diff, param(1).diff)
        return Memory(buffers=saved, forward=(*plain, *kept), backward=gradients)


@dataclass(frozen=True, slots=True)
class SegNetBNSettings:
    scale_filler: str = "constant"
    shift_filler: str = "constant"
    bn_mode: str = "LEARN"


class SegNetBN(Rule):
    """SegNet's: scale and shift. Its Backward overwrites their gradients instead of adding to them.

    INFERENCE scales and shifts only. Further tops are the mean and the variance of the batch.
    """

    type = "BN"
    message = "bn_param"
    settings = SegNetBNSettings
    works_in_place = True
    tops = (1, 3)
    forks = ("segnet",)
    follows = "alexgkendall/caffe-segnet: bn_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        shape = _checked(site)
        statistics = (1, shape[1], 1, 1)
        return (shape, statistics, statistics)[: site.tops]

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: SegNetBNSettings = site.settings
        shape = (1, _checked(site)[1], 1, 1)
        return filled(shape, s.scale_filler), filled(shape, s.shift_filler)

    def coupling(self, site: Site) -> Coupling:
        s: SegNetBNSettings = site.settings
        if s.bn_mode == "INFERENCE":
            return Coupling(joint=(1,), affine=True, overwrites=(0, 1))
        others = tuple(axis for axis in range(len(site.bottoms[0])) if axis != 1)
        return Coupling(joint=others, statistics=True, overwrites=(0, 1))

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: SegNetBNSettings = site.settings
        samples, channels, height, width = _checked(site)
        size, learns = count(site.bottoms[0]), s.bn_mode == "LEARN"
        ones = (own("spatial_sum_multiplier_"), own("batch_sum_multiplier_"))
        statistics = [own("batch_mean_").data, own("batch_variance_").data, own("x_norm_").data]
        used = [own("buffer_blob_").data, own("spatial_mean_").data, own("spatial_variance_").data]
        used += [blob.data for blob in ones]
        used += statistics if learns else []
        forward = [bottom(0).data, top(0).data, param(0).data, param(1).data, *used]
        if learns:
            forward += [top(number).data for number in range(1, site.tops)]
        backward = [top(0).diff, bottom(0).diff, param(0).diff, param(1).diff]
        build: list[Side] = []
        if mode == "cpu":
            build += [side for blob in ones for side in blob]
            backward += [own("spatial_mean_").diff, own("spatial_variance_").diff]
        return Memory(
            buffers=(
                Buffer("x_norm_", size),
                Buffer("buffer_blob_", size),
                Buffer("spatial_mean_", samples * channels),
                Buffer("spatial_variance_", samples * channels),
                Buffer("batch_mean_", channels),
                Buffer("batch_variance_", channels),
                Buffer("spatial_sum_multiplier_", height * width),
                Buffer("batch_sum_multiplier_", samples),
            ),
            build=tuple(build),
            forward=tuple(forward),
            backward=tuple(backward),
        )


def _checked(site: Site) -> Shape:
    """The input as (N, C, H, W).

    Raises:
        ShapeError: It has more axes, or no samples or channels.
    """
    shape = four_axes(site.bottoms[0])
    if 0 in shape:
        raise ShapeError(f"BN needs an input with samples and channels, not {site.bottoms[0]}")
    return shape
