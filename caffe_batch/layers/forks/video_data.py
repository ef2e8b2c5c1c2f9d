"""VideoData: two layers of one name.

Source: weiliu89/caffe (ssd), video_data_layer.cpp: the frames of one video or camera.
yjxiong/caffe (action_recog), video_data_layer.cpp, io.cpp: snippets of a list of videos.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Phase, Rule, Shape, Site, setting
from caffe_batch.layers.data import known_record
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.forks.annotated_data import AnnotatedDataSettings, transformed
from caffe_batch.layers.forks.prefetching import BATCHES, copying_memory


class CameraData(Rule):
    """SSD's; labels are zeros."""

    type = "VideoData"
    message = "data_param"
    settings = AnnotatedDataSettings
    other_messages = ("video_data_param",)
    bottoms = (0, 0)
    tops = (1, 2)
    has_batch_size = True
    source = Source(SourceKind.VIDEO, record="frame")
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: video_data_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: AnnotatedDataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError("data_param needs batch_size, at least 1")
        return ((s.batch_size, *transformed(site)), (s.batch_size,))[: site.tops]

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, BATCHES["ssd"])

    def coupling(self, site: Site) -> Coupling:
        return Coupling()


@dataclass(frozen=True, slots=True)
class VideoDataSettings:
    batch_size: int = 0
    new_height: int = 0
    new_width: int = 0
    new_length: int = 1
    num_segments: int = 1
    modality: str = "FLOW"
    grayscale: bool = False
    shuffle: bool = False
    crop_size: int = setting(0, message="transform_param")
    mirror: bool = setting(False, message="transform_param")


class VideoData(Rule):
    """Action recognition's: snippets of so many frames from each segment of a video.

    An optical flow has two channels for each frame, and a picture three, or one.
    """

    type = "VideoData"
    message = "video_data_param"
    settings = VideoDataSettings
    bottoms = (0, 0)
    tops = (2, 2)
    has_batch_size = True
    source = Source(SourceKind.VIDEO, record="frame")
    follows = "yjxiong/caffe: video_data_layer.cpp, io.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: VideoDataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError("video_data_param needs batch_size, at least 1")
        each = 2 if s.modality == "FLOW" else 1 if s.grayscale else 3
        if s.crop_size:
            height, width = s.crop_size, s.crop_size
        elif s.new_height and s.new_width:
            height, width = s.new_height, s.new_width
        else:
            _, height, width = known_record(site)
        channels = each * s.new_length * s.num_segments
        return (s.batch_size, channels, height, width), (s.batch_size, 1, 1, 1)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, batches=0)

    def draws(self, settings: VideoDataSettings, phase: Phase) -> bool:
        return phase == "TRAIN"

    def coupling(self, site: Site) -> Coupling:
        s: VideoDataSettings = site.settings
        return Coupling(draws=self.draws(s, site.phase), shuffles=s.shuffle)
