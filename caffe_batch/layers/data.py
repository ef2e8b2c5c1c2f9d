"""Data, ImageData and WindowData: layers that read ahead into prefetch batches.

Source: base_data_layer.cpp, .cu; data_layer.cpp, image_data_layer.cpp, window_data_layer.cpp,
data_transformer.cpp. All three read ``data_param.prefetch``. The batches are allocated when the
net is built, on the host and, in GPU mode, on the device too; the tops have no memory of their own:
they point into the next batch.

``Site.records`` holds the shape (C, H, W) of one record, the largest one if they differ. Caffe
gives each batch the size of its first record and aborts at a record of another size in the batch,
unless it crops them:

- Data: that of a Datum, as decoded. An encoded one has 3 or 1 channels if ``transform_param`` has
  ``force_color`` or ``force_gray``.
- ImageData: that of an image file. The number of channels is not read (``is_color`` decides),
  and with ``new_height`` and ``new_width`` no record is needed.
- WindowData: as in the window file; only C is read, and 3 is assumed if it is unknown (Caffe
  decodes the images in colour whatever the file says).

In CPU mode the mean image of WindowData is left out: only its file says how large it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_batch.errors import InputShapeError, ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Phase,
    Rule,
    Shape,
    Site,
    count,
    setting,
)
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.sides import top

#: For both Data and ImageData.
RECORD_ORDER = (
    "An update reads the same records in the same order, and with random_seed set they are "
    "cropped and mirrored alike."
)


@dataclass(frozen=True, slots=True)
class DataSettings:
    batch_size: int = 0
    prefetch: int = setting(4, message="data_param")
    crop_size: int = setting(0, message="transform_param")
    mirror: bool = setting(False, message="transform_param")
    mean_file: str = setting("", message="transform_param")
    mean_value: tuple[float, ...] = setting((), message="transform_param")


@dataclass(frozen=True, slots=True)
class ImageDataSettings(DataSettings):
    batch_size: int = 1
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True
    shuffle: bool = False


@dataclass(frozen=True, slots=True)
class WindowDataSettings(DataSettings):
    fg_fraction: float = 0.25


class Data(Rule):
    type = "Data"
    message = "data_param"
    settings = DataSettings
    bottoms = (0, 0)
    tops = (1, 2)
    has_batch_size = True
    source = Source(SourceKind.DATABASE, shared_out=True)
    record_order = RECORD_ORDER
    crops = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: DataSettings = site.settings
        if s.batch_size == 0:
            raise ShapeError(f"{self.message} needs batch_size, at least 1")
        if s.prefetch == 0:
            raise ShapeError("data_param.prefetch must be at least 1: Caffe would wait forever")
        channels, height, width = self.record(site)
        if site.unequal_records and not s.crop_size and s.batch_size > 1:
            raise ShapeError(
                "its records differ in size, and Caffe takes only batch_size 1 for them, not "
                f"{s.batch_size}",
                hint="Give crop_size, or for ImageData new_height and new_width.",
            )
        if channels == 0:
            raise ShapeError("a record needs at least one channel")
        if s.crop_size > min(height, width):
            raise ShapeError(
                f"crop_size {s.crop_size} is larger than a record of {height} x {width}",
                hint="Use a smaller crop_size or larger images.",
            )
        if s.mean_value and (s.mean_file or len(s.mean_value) not in (1, channels)):
            raise ShapeError(
                f"give one mean_value, or one for each of the {channels} channels, and no mean_file"
            )
        data = (s.batch_size, channels, s.crop_size or height, s.crop_size or width)
        return (data, (s.batch_size,))[: site.tops]

    def record(self, site: Site) -> Shape:
        """Shape (C, H, W) of a record before it is cropped."""
        channels, height, width = known_record(site)
        return channels, height, width

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: DataSettings = site.settings
        buffers = [
            Buffer(f"prefetch_{name}", count(shape), copies=s.prefetch, prefetch=True)
            for name, shape in zip(("data_", "label_"), self.shape(site), strict=False)
        ]
        shares = tuple((top(i).data, b.data) for i, b in enumerate(buffers))
        if mode == "cpu" and s.mean_file and site.records:
            buffers.append(Buffer("data_mean_", count(self.record(site))))
        return Memory(
            buffers=tuple(buffers),
            build=tuple(buffer.data for buffer in buffers),
            shares=shares,
        )

    def draws(self, settings: DataSettings, phase: Phase) -> bool:
        return settings.mirror or settings.crop_size > 0

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase))


class ImageData(Data):
    type = "ImageData"
    message = "image_data_param"
    settings = ImageDataSettings
    tops = (2, 2)
    source = Source(SourceKind.IMAGE_LIST, record="image")
    image_size = ("new_height", "new_width")

    def record(self, site: Site) -> Shape:
        s: ImageDataSettings = site.settings
        if (s.new_height == 0) != (s.new_width == 0):
            raise ShapeError("give both new_height and new_width, or neither")
        channels = 3 if s.is_color else 1
        if s.new_height:
            return channels, s.new_height, s.new_width
        return (channels, *known_record(site)[1:])

    def coupling(self, site: Site) -> Coupling:
        s: ImageDataSettings = site.settings
        return replace(Data.coupling(self, site), shuffles=s.shuffle)


class WindowData(Data):
    type = "WindowData"
    message = "window_data_param"
    settings = WindowDataSettings
    tops = (2, 2)
    source = Source(SourceKind.WINDOW_FILE, record="window", decides_all_tops=True)
    record_order = ""  # its windows are drawn at random
    resizes_windows = True

    def record(self, site: Site) -> Shape:
        s: WindowDataSettings = site.settings
        if s.crop_size == 0:
            raise ShapeError("WindowData needs transform_param.crop_size, at least 1")
        if not 0 <= s.fg_fraction <= 1:  # load_batch would write beyond the batch
            raise ShapeError(
                f"fg_fraction is a share of the batch from 0 to 1, not {s.fg_fraction}"
            )
        return site.records[0][0] if site.records else 3, s.crop_size, s.crop_size

    def draws(self, settings: DataSettings, phase: Phase) -> bool:
        return True

    def coupling(self, site: Site) -> Coupling:
        s: WindowDataSettings = site.settings
        return Coupling(draws=self.draws(s, site.phase), quota=int(s.batch_size * s.fg_fraction))


def known_record(site: Site) -> Shape:
    """The shape (C, H, W) of the first record.

    Raises:
        InputShapeError: It isn't known, or has other axes.
    """
    if not site.records:
        why = f": {site.unread}" if site.unread else ""
        raise InputShapeError(f"the size of its records is not known{why}")
    record = site.records[0]
    if len(record) != 3:
        raise InputShapeError(f"a record has the shape CxHxW, not {'x'.join(map(str, record))}")
    return record
