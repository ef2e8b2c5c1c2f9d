"""Normalize and L2Normalization: each position, or each image, divided by its norm.

Source: Normalize with norm_param: weiliu89/caffe (ssd), normalize_layer.cpp, .cu; with
normalize_param: happynear/caffe-windows (ms), normalize_layer.cpp, .cu. L2Normalization:
spongezhang/caffe and others, l2_normalization_layer.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    all_but_first,
    count,
    filled,
    four_axes,
    setting,
)
from caffe_batch.layers.sides import Side, bottom, own, param, top


@dataclass(frozen=True, slots=True)
class NormalizeSettings:
    across_spatial: bool = True
    channel_shared: bool = True
    scale_filler: str = "constant"
    normalize_param: bool | None = setting(None, message="")


class Normalize(Rule):
    """SSD's, with a learned scale; with ``normalize_param`` caffe-windows', without one.

    With across_spatial and with channel_shared its GPU code reads norms and scale on the host.
    """

    type = "Normalize"
    message = "norm_param"
    settings = NormalizeSettings
    tops = (1, 2)
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe, happynear/caffe-windows: normalize_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: NormalizeSettings = site.settings
        shape = site.bottoms[0]
        samples, _, height, width = four_axes(shape)
        if s.normalize_param:
            return (four_axes(shape), (samples, 1, height, width))[: site.tops]
        if len(shape) < 2:
            raise ShapeError(f"Normalize needs an input of at least 2 axes, not {shape}")
        if site.tops > 1:
            raise ShapeError("Normalize with norm_param has 1 top; only normalize_param allows 2")
        return (shape,)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: NormalizeSettings = site.settings
        if s.normalize_param:
            return ()
        scale = () if s.channel_shared else (site.bottoms[0][1],)
        return (filled(scale, s.scale_filler),)

    def coupling(self, site: Site) -> Coupling:
        s: NormalizeSettings = site.settings
        if s.normalize_param or not s.across_spatial:
            return Coupling(joint=(1,))
        return Coupling(joint=all_but_first(site))

    def memory(self, site: Site, mode: Mode) -> Memory:
        if site.settings.normalize_param:
            return _without_scale(site)
        s: NormalizeSettings = site.settings
        samples, channels, height, width = four_axes(site.bottoms[0])
        spatial, cpu = height * width, mode == "cpu"
        scale = (param(0).data,) if cpu or not s.channel_shared else ()
        norm = (own("norm_").data,) if cpu or not s.across_spatial else ()
        ones = (own("sum_channel_multiplier_").data, own("sum_spatial_multiplier_").data)
        forward = [bottom(0).data, top(0).data, own("buffer_").data, *norm, *scale, ones[0]]
        backward: list[Side] = [
            top(0).diff, bottom(0).diff, own("buffer_").data, own("buffer_channel_").data,
            own("buffer_spatial_").data, *ones,
        ]  # fmt: skip
        if site.param_need[0] and scale:
            backward.append(param(0).diff)
        return Memory(
            buffers=(
                Buffer("buffer_", channels * spatial),
                Buffer("buffer_channel_", channels),
                Buffer("buffer_spatial_", spatial),
                Buffer("norm_", samples * (1 if s.across_spatial else spatial)),
                Buffer("sum_channel_multiplier_", channels),
                Buffer("sum_spatial_multiplier_", spatial),
            ),
            build=ones if cpu else (),
            forward=(*forward, ones[1]) if cpu else tuple(forward),
            backward=tuple(backward),
        )


def _without_scale(site: Site) -> Memory:
    """caffe-windows': squares of the input's size, and one norm for each position."""
    samples, _, height, width = four_axes(site.bottoms[0])
    norm = top(1) if site.tops == 2 else own("norm_")
    return Memory(
        buffers=(
            Buffer("squared_", count(site.bottoms[0])),
            Buffer("norm_", samples * height * width),
        ),
        forward=(bottom(0).data, top(0).data, own("squared_").data, norm.data),
        backward=(
            top(0).diff, bottom(0).diff, own("norm_").diff,
            *((top(1).diff,) if site.tops == 2 else ()),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class L2NormalizationSettings:
    channel_wise: bool = True


class L2Normalization(Rule):
    type = "L2Normalization"
    message = "l2_normalization_param"
    settings = L2NormalizationSettings
    follows = "spongezhang/caffe: l2_normalization_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return (four_axes(site.bottoms[0]),)

    def coupling(self, site: Site) -> Coupling:
        s: L2NormalizationSettings = site.settings
        return Coupling(joint=(1,) if s.channel_wise else (2, 3))

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: L2NormalizationSettings = site.settings
        samples, channels, height, width = four_axes(site.bottoms[0])
        summed, norms = channels, samples * height * width
        if not s.channel_wise:
            summed, norms = height * width, samples * channels
        buffers = (
            Buffer("sum_multiplier_", summed),
            Buffer("norm_", norms),
            Buffer("temp_dot_", norms),
            Buffer("square_", count(site.bottoms[0])),
        )
        ones, norm, dots, square = [buffer.data for buffer in buffers]
        return Memory(
            buffers=buffers,
            build=(ones,) if mode == "cpu" else (),
            forward=(bottom(0).data, top(0).data, ones, norm, square),
            backward=(top(0).diff, bottom(0).diff, dots),
            at_most=norms if mode == "gpu" else 0,
        )
