"""LRN: local response normalisation. Source: lrn_layer.cpp, .cu.

Within a channel it is a small net of Split, Power, Pooling, Power and Eltwise layers; with cuDNN,
one call and two buffers (cudnn_lcn_layer.*). Across channels it needs no buffer with cuDNN
(cudnn_lrn_layer.*).
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
    all_but_first,
    count,
    without_buffers,
)
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.sides import bottom, own, top

#: The largest local_size across channels that cuDNN accepts (cudnn.h, CUDNN_LRN_MAX_N).
CUDNN_LRN_MAX_SIZE = 16


@dataclass(frozen=True, slots=True)
class LRNSettings:
    engine: str = "DEFAULT"
    local_size: int = 5
    norm_region: str = "ACROSS_CHANNELS"


class LRN(Rule):
    type = "LRN"
    message = "lrn_param"
    settings = LRNSettings
    works_in_place = True
    reads_top = ReadsTop.ALWAYS

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: LRNSettings = site.settings
        if s.local_size % 2 == 0:
            raise ShapeError(f"local_size must be odd, not {s.local_size}")
        if len(site.bottoms[0]) != 4:
            raise ShapeError(f"LRN needs an input of 4 axes (N, C, H, W), not {site.bottoms[0]}")
        return site.bottoms

    def coupling(self, site: Site) -> Coupling:
        """Across channels, the CPU's Backward computes powers in the bottom's gradient.

        The GPU kernel doesn't, but in place it reads what its neighbours may have overwritten.
        """
        across = site.settings.norm_region != "WITHIN_CHANNEL"
        return Coupling(joint=all_but_first(site), rereads=across)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: LRNSettings = site.settings
        if s.norm_region == "WITHIN_CHANNEL":
            return _within_channel(site)
        _, channels, height, width = site.bottoms[0]
        transient = 0
        if mode == "cpu":
            # The padded squares (or ratios) of one image; Backward adds an accumulator.
            transient = (channels + s.local_size - 1) * height * width
            transient += 2 * height * width if site.backward else 0
        return Memory(
            buffers=(Buffer("scale_", count(site.bottoms[0])),),
            forward=(bottom(0).data, top(0).data, own("scale_").data),
            backward=(top(0).diff, bottom(0).diff),
            transient=transient,
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        s: LRNSettings = site.settings
        within = s.norm_region == "WITHIN_CHANNEL"
        if s.engine == "CAFFE" or (not within and s.local_size > CUDNN_LRN_MAX_SIZE):
            return memory
        plain = without_buffers(memory, *[buffer.name for buffer in memory.buffers])
        if not within:
            return plain
        temporary = ("tempData1", "tempData2")
        return replace(
            plain,
            buffers=tuple([Buffer(name, count(site.bottoms[0])) for name in temporary]),
            build=tuple([own(name).data for name in temporary]),
            backward=(top(0).diff, bottom(0).diff),
        )


def _within_channel(site: Site) -> Memory:
    size = count(site.bottoms[0])
    shared = ("product_input_", "square_input_")  # they share the bottom's data
    kept = ("square_output_", "pool_output_", "power_output_")
    diffs = tuple(own(name).diff for name in shared + kept)
    return Memory(
        buffers=tuple(Buffer(name, size) for name in shared + kept),
        forward=(bottom(0).data, top(0).data, *(own(name).data for name in kept)),
        backward=(top(0).diff, bottom(0).diff, *diffs) if site.bottom_need[0] else (),
    )
