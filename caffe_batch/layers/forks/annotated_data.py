"""AnnotatedData: images with boxes. Source: weiliu89/caffe, annotated_data_layer.cpp,
data_transformer.cpp (InferBlobShape), im_transforms.cpp (InferNewSize).

The second top has a row for each box of the batch: when it is built, the boxes of the first image,
then those of each batch. It is built with one here, which is what Caffe does for an image without
boxes; a row has 8 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Phase, Rule, Shape, Site, setting
from caffe_batch.layers.data import RECORD_ORDER, DataSettings, known_record
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.forks.detection import BOX
from caffe_batch.layers.forks.prefetching import BATCHES, copying_memory

#: Channels of a colour image, which nothing but the record says.
COLOURS = 3


@dataclass(frozen=True, slots=True)
class Resizing:
    """What SSD does to the size of an image."""

    resize_mode: str = "WARP"
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class AnnotatedDataSettings(DataSettings):
    crop_h: int = setting(0, message="transform_param")
    crop_w: int = setting(0, message="transform_param")
    resize_param: tuple[Resizing, ...] = setting((), message="transform_param")
    annotated_data_param: bool | None = setting(None, message="")


class AnnotatedData(Rule):
    type = "AnnotatedData"
    message = "data_param"
    settings = AnnotatedDataSettings
    bottoms = (0, 0)
    tops = (1, 2)
    has_batch_size = True
    source = Source(SourceKind.ANNOTATED, shared_out=True)
    record_order = RECORD_ORDER
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: annotated_data_layer.cpp, data_transformer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: AnnotatedDataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError("data_param needs batch_size, at least 1")
        resized = resizing(s)
        if resized and resized.resize_mode == "FIT_SMALL_SIZE" and s.batch_size > 1:
            raise ShapeError(f"FIT_SMALL_SIZE takes only batch_size 1, not {s.batch_size}")
        data = (s.batch_size, *transformed(site))
        labels = (1, 1, 1, BOX) if s.annotated_data_param else (s.batch_size,)
        return (data, labels)[: site.tops]

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, BATCHES["ssd"])

    def draws(self, settings: AnnotatedDataSettings, phase: Phase) -> bool:
        return phase == "TRAIN"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase))


def resizing(s: AnnotatedDataSettings) -> Resizing | None:
    """What happens to the size of images; of several sizes that take turns, the largest.

    Several are for eric612/MobileNet-YOLO, annotated_data_layer.cpp, which draws one for each ten
    batches.
    """
    return max(s.resize_param, key=lambda each: each.height * each.width, default=None)


def transformed(site: Site) -> Shape:
    """The shape (C, H, W) of an image after SSD's transformations.

    Raises:
        InputShapeError: It depends on the records, and they aren't known.
        ShapeError: The crop is larger than the image.
    """
    s: AnnotatedDataSettings = site.settings
    crop_h, crop_w = s.crop_size or s.crop_h, s.crop_size or s.crop_w
    resized = resizing(s)
    warped = resized is not None and resized.height and resized.width
    if resized is not None and warped and resized.resize_mode != "FIT_SMALL_SIZE":
        channels = site.records[0][0] if site.records else COLOURS
        height, width = resized.height, resized.width
    else:
        channels, height, width = known_record(site)
        if site.unequal_records and s.batch_size > 1 and not crop_h:
            raise ShapeError(
                "its records differ in size, and Caffe takes only batch_size 1 for them, not "
                f"{s.batch_size}",
                hint="Give resize_param or a crop in transform_param.",
            )
        if resized is not None and warped:
            height, width = _fit(resized, height, width)
    if crop_h > height or crop_w > width:
        raise ShapeError(f"a crop of {crop_h} x {crop_w} is larger than {height} x {width}")
    return channels, crop_h or height, crop_w or width


def _fit(resized: Resizing, height: int, width: int) -> tuple[int, int]:
    """FIT_SMALL_SIZE: the shorter side gets its size, the other one keeps the proportion."""
    if width * resized.height < resized.width * height:
        return int(resized.width * height / width), resized.width
    return resized.height, int(width / height * resized.height)
