"""CPMData: images of people with maps of their joints.

Source: shihenw/caffe, CMU-Perceptual-Computing-Lab/caffe_train (OpenPose): cpm_data_layer.cpp. The
images of the first have a fourth channel, a Gaussian at the person, unless ``put_gaussian`` is
false.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Phase,
    Rule,
    Settings,
    Shape,
    Site,
    setting,
)
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.forks.prefetching import OTHER_BATCHES, copying_memory


@dataclass(frozen=True, slots=True)
class CPMDataSettings:
    batch_size: int = 0
    crop_size_x: int = setting(368, message="transform_param")
    crop_size_y: int = setting(368, message="transform_param")
    stride: int = setting(4, message="transform_param")
    num_parts: int = setting(14, message="transform_param")
    put_gaussian: bool = setting(True, message="transform_param")


class CPMData(Rule):
    type = "CPMData"
    message = "cpmdata_param"
    settings: Settings = CPMDataSettings
    bottoms = (0, 0)
    tops = (1, 2)
    has_batch_size = True
    source = Source(SourceKind.ANNOTATED, shared_out=True)
    follows = "shihenw/caffe: cpm_data_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: CPMDataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError("cpmdata_param needs batch_size, at least 1")
        if s.stride == 0 or 0 in (s.crop_size_x, s.crop_size_y):
            raise ShapeError("stride, crop_size_x and crop_size_y must be at least 1")
        height, width = s.crop_size_y, s.crop_size_x
        data = (s.batch_size, 4 if s.put_gaussian else 3, height, width)
        maps = 2 * (s.num_parts + 1)  # each joint and the background, twice
        labels = (s.batch_size, maps, height // s.stride, width // s.stride)
        return (data, labels)[: site.tops]

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, OTHER_BATCHES)

    def draws(self, settings: CPMDataSettings, phase: Phase) -> bool:
        return phase == "TRAIN"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase))


@dataclass(frozen=True, slots=True)
class PoseDataSettings:
    batch_size: int = 0
    crop_size_x: int = setting(368, message="cpm_transform_param")
    crop_size_y: int = setting(368, message="cpm_transform_param")
    stride: int = setting(4, message="cpm_transform_param")
    num_parts: int = setting(14, message="cpm_transform_param")


class PoseData(CPMData):
    """OpenPose's layer of that name: its databases hold a mask beside the three colours, it reads
    as many channels as a record has, and its settings are in other messages.
    """

    type = "CPMData:cpm_transform_param"
    message = "data_param"
    settings = PoseDataSettings
    follows = "CMU-Perceptual-Computing-Lab/caffe_train: cpm_data_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: PoseDataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError("data_param needs batch_size, at least 1")
        if s.stride == 0 or 0 in (s.crop_size_x, s.crop_size_y):
            raise ShapeError("stride, crop_size_x and crop_size_y must be at least 1")
        channels = site.records[0][0] if site.records else 3
        maps = 2 * (s.num_parts + 1)
        data = (s.batch_size, channels, s.crop_size_y, s.crop_size_x)
        labels = (s.batch_size, maps, s.crop_size_y // s.stride, s.crop_size_x // s.stride)
        return (data, labels)[: site.tops]
