"""DenseImageData and ImageSegData: images with a label for each pixel.

Source: DenseImageData: alexgkendall/caffe-segnet, TimoSaemann/caffe-enet,
dense_image_data_layer.cpp; ImageSegData: cdmh/deeplab-public-ver2, hszhao/PSPNet,
image_seg_data_layer.cpp.
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
    Shape,
    Site,
    not_empty,
    setting,
)
from caffe_batch.layers.data import known_record
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.forks.prefetching import BATCHES, copying_memory


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What both layers read of their messages."""

    batch_size: int = 1
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True
    shuffle: bool = False
    crop_size: int = setting(0, message="transform_param")


@dataclass(frozen=True, slots=True)
class DenseImageDataSettings(ImageSettings):
    batch_size: int = 0
    mirror: bool = False
    crop_height: int = 0
    crop_width: int = 0
    label_divide_factor: int = 1


@dataclass(frozen=True, slots=True)
class ImageSegDataSettings(ImageSettings):
    mirror: bool = setting(False, message="transform_param")
    crop_height: int = setting(0, message="transform_param")
    crop_width: int = setting(0, message="transform_param")


class LabelledPixels(Rule):
    """What both layers have in common: one more top than the shapes that are cropped alike."""

    bottoms = (0, 0)
    has_batch_size = True
    source = Source(SourceKind.IMAGE_PAIRS, record="image")
    image_size = ("new_height", "new_width")
    record_order = (
        "An update reads the same images in the same order, and with random_seed set they are "
        "cropped and mirrored alike."
    )

    def images(self, site: Site) -> tuple[Shape, Shape]:
        """The shapes of images and labels.

        Raises:
            InputShapeError: They depend on the images, and these aren't known.
            ShapeError: The layer refuses its settings.
        """
        s = site.settings
        if s.batch_size == 0:
            raise ShapeError(f"{self.message} needs batch_size, at least 1")
        if (s.new_height == 0) != (s.new_width == 0):
            raise ShapeError("give both new_height and new_width, or neither")
        if (s.crop_height == 0) != (s.crop_width == 0):
            raise ShapeError("give both crop_height and crop_width, or neither")
        if s.crop_size:
            size: Shape = (s.crop_size, s.crop_size)
        elif s.crop_height:
            size = (s.crop_height, s.crop_width)
        elif s.new_height:
            size = (s.new_height, s.new_width)
        else:
            size = known_record(site)[1:]
        return (s.batch_size, 3 if s.is_color else 1, *size), (s.batch_size, 1, *size)

    def draws(self, settings: ImageSettings, phase: Phase) -> bool:
        cropped = settings.crop_size or getattr(settings, "crop_height", 0)
        return bool(cropped or getattr(settings, "mirror", False))

    def coupling(self, site: Site) -> Coupling:
        s: ImageSettings = site.settings
        return Coupling(draws=self.draws(s, site.phase), shuffles=s.shuffle)


class DenseImageData(LabelledPixels):
    type = "DenseImageData"
    message = "dense_image_data_param"
    settings = DenseImageDataSettings
    tops = (2, 2)
    forks = ("segnet",)
    follows = "alexgkendall/caffe-segnet: dense_image_data_layer.cpp, base_data_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: DenseImageDataSettings = site.settings
        data, label = self.images(site)
        if s.label_divide_factor > 1 and not (s.crop_size or s.crop_height):  # ENet's encoder
            label = (*label[:2], *[size // s.label_divide_factor for size in label[2:]])
        return data, not_empty(label)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, BATCHES["segnet"])


class ImageSegData(LabelledPixels):
    """Its third top is the height and width of each image; Caffe adds tops that aren't written."""

    type = "ImageSegData"
    message = "image_data_param"
    settings = ImageSegDataSettings
    tops = (3, 3)
    automatic_top = True
    forks = ("deeplab", "pspnet")
    follows = "cdmh/deeplab-public-ver2: image_seg_data_layer.cpp, base_data_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return (*self.images(site), (site.settings.batch_size, 1, 1, 2))

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, BATCHES["deeplab"])
