"""ROIPooling and PSROIPooling: the same number of cells for each region.

Source: rbgirshick/caffe-fast-rcnn (faster-rcnn), roi_pooling_layer.cpp, .cu;
daijifeng001/caffe-rfcn, psroi_pooling_layer.cpp, .cu. A region is a row of 5 numbers: which sample
of the batch, and its box. R-FCN's has no CPU code.
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
    count,
    four_axes,
)
from caffe_batch.layers.sides import bottom, own, top

#: Numbers of a region.
REGION = 5


@dataclass(frozen=True, slots=True)
class ROIPoolingSettings:
    pooled_h: int = 0
    pooled_w: int = 0


class RegionPooling(Rule):
    """What both have in common: an index for each cell of the top."""

    bottoms = (2, 2)
    index = ""

    def coupling(self, site: Site) -> Coupling:
        """A region says by its number which sample it belongs to."""
        return Coupling(joint=(2, 3), selects=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        index = own(self.index).data
        return Memory(
            buffers=(Buffer(self.index, count(self.shape(site)[0])),),
            forward=(bottom(0).data, bottom(1).data, top(0).data, index),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


class ROIPooling(RegionPooling):
    type = "ROIPooling"
    message = "roi_pooling_param"
    settings = ROIPoolingSettings
    index = "max_idx_"
    forks = ("rcnn",)
    follows = "rbgirshick/caffe-fast-rcnn: roi_pooling_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ROIPoolingSettings = site.settings
        if 0 in (s.pooled_h, s.pooled_w):
            raise ShapeError("roi_pooling_param needs pooled_h and pooled_w, at least 1")
        channels = four_axes(site.bottoms[0])[1]
        return ((regions(site), channels, s.pooled_h, s.pooled_w),)


@dataclass(frozen=True, slots=True)
class PSROIPoolingSettings:
    output_dim: int = 0
    group_size: int = 0


class PSROIPooling(RegionPooling):
    type = "PSROIPooling"
    message = "psroi_pooling_param"
    settings = PSROIPoolingSettings
    index = "mapping_channel_"
    forks = ("rcnn",)
    follows = "daijifeng001/caffe-rfcn: psroi_pooling_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: PSROIPoolingSettings = site.settings
        if s.output_dim < 1 or s.group_size < 1:
            raise ShapeError("psroi_pooling_param needs output_dim and group_size, at least 1")
        channels, wanted = four_axes(site.bottoms[0])[1], s.output_dim * s.group_size**2
        if channels != wanted:
            raise ShapeError(
                f"output_dim {s.output_dim} in {s.group_size} x {s.group_size} cells needs an "
                f"input of {wanted} channels, not {channels}"
            )
        return ((regions(site), s.output_dim, s.group_size, s.group_size),)


def regions(site: Site) -> int:
    """How many regions bottom 1 has.

    Raises:
        ShapeError: Its rows aren't regions.
    """
    shape = site.bottoms[1]
    if not shape or count(shape[1:]) != REGION:
        raise ShapeError(f"the regions are rows of {REGION} numbers, not {shape}")
    return shape[0]
