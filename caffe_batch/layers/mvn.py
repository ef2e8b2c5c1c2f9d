"""MVN: each image (or channel) to mean 0 and variance 1. Source: mvn_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.layers.base import Buffer, Memory, Mode, Rule, Shape, Site, count, four_axes
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.sides import bottom, own, top


@dataclass(frozen=True, slots=True)
class MVNSettings:
    normalize_variance: bool = True
    across_channels: bool = False


class MVN(Rule):
    type = "MVN"
    message = "mvn_param"
    settings = MVNSettings
    works_in_place = True
    reads_top = ReadsTop.ALWAYS

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return (four_axes(site.bottoms[0]),)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: MVNSettings = site.settings
        batch, channels, height, width = four_axes(site.bottoms[0])
        group = (channels if s.across_channels else 1) * height * width
        forward = [bottom(0).data, top(0).data]
        forward += [own(name).data for name in ("mean_", "temp_", "sum_multiplier_")]
        if s.normalize_variance:
            forward.append(own("variance_").data)
        return Memory(
            buffers=(
                Buffer("mean_", batch * channels),
                Buffer("variance_", batch * channels),
                Buffer("temp_", count(site.bottoms[0])),
                Buffer("sum_multiplier_", group),
            ),
            build=(own("sum_multiplier_").data,) if mode == "cpu" else (),
            forward=tuple(forward),
            backward=(top(0).diff, bottom(0).diff),
        )
