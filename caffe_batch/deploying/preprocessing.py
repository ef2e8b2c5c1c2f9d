"""How a picture becomes what a net reads: as its TEST data layer did, in one JSON object.

The values are Caffe's: (pixel - mean) * scale in float32, in this order, of blue, green and red.
Source: data_transformer.cpp (Transform), io.cpp (ReadImageToCVMat), image_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_batch.datasets import DESCRIPTION, read_dataset
from caffe_batch.datasets.settings import Fit, Settings
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Rule, Shape
from caffe_batch.layers.facts import SourceKind
from caffe_batch.net.data.blob_file import blob_shape, text
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources, has_records
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # (height, width, channels); blue, green, red
    Values = NDArray[np.float32]  # (channels, height, width)

#: The sources whose records are pictures.
_OF_PICTURES = (SourceKind.DATABASE, SourceKind.IMAGE_LIST)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture, in this order.

    Attributes:
        channels: 3 for blue, green, red; 1 for gray.
        resize: Height and width that a picture is resized to; None leaves it as it is.
        fit: What happens to its proportions, as ``caffe-batch data`` has it.
        crop: The side of the square cut out of the middle; 0 for none.
        mean_values: What is subtracted from each channel; one for all, or none.
        mean_file: A mean image of the size before the crop, which is subtracted instead.
        scale: What the difference is multiplied by.
    """

    channels: int
    resize: tuple[int, int] | None = None
    fit: Fit = "squash"
    crop: int = 0
    mean_values: tuple[float, ...] = ()
    mean_file: str | None = None
    scale: float = 1.0

    def json(self) -> dict[str, Any]:
        """As deploy.json has it."""
        return {
            "channel_order": "gray" if self.channels == 1 else "BGR",
            "channels": self.channels,
            "resize": None if self.resize is None else list(self.resize),
            "fit": self.fit,
            "crop": self.crop or None,
            "mean_values": list(self.mean_values),
            "mean_file": self.mean_file,
            "scale": self.scale,
        }

    def fitted(self, pixels: Pixels) -> Pixels:
        """A picture's pixels as the record would have them, cut to the crop.

        Raises:
            InputError: It is smaller than the crop.
        """
        from caffe_batch.datasets.pictures import fitted

        whole = fitted(pixels, Settings(resize=self.resize, fit=self.fit))
        if not self.crop:
            return whole
        height, width = whole.shape[:2]
        if min(height, width) < self.crop:
            raise InputError(
                f"it is {height} x {width}, and the net takes {self.crop} x {self.crop} out of it"
            )
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        return whole[top : top + self.crop, left : left + self.crop]

    def values(self, pixels: Pixels, mean: Values | None) -> Values:
        """What the net reads, from pixels that :meth:`fitted` gave.

        Args:
            pixels: The pixels.
            mean: The mean image of the whole record; None if there is no ``mean_file``.
        """
        import numpy as np

        values = pixels.transpose(2, 0, 1).astype(np.float32)
        if mean is not None:
            height, width = values.shape[1:]
            top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
            values -= mean[:, top : top + height, left : left + width]
        elif self.mean_values:
            values -= np.array(self.mean_values, np.float32)[:, None, None]
        values *= np.float32(self.scale)
        return values

    def shown(self, values: Values, mean: Values | None) -> Pixels:
        """The pixels that gave these values, to be looked at."""
        import numpy as np

        pixels = values / np.float32(self.scale or 1)
        if mean is not None:
            height, width = values.shape[1:]
            top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
            pixels = pixels + mean[:, top : top + height, left : left + width]
        elif self.mean_values:
            pixels = pixels + np.array(self.mean_values, np.float32)[:, None, None]
        return np.ascontiguousarray(
            np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        )


@dataclass(frozen=True)
class Origin:
    """How the data layer of a net made its input.

    Attributes:
        preprocessing: What it did to pictures; None if its records aren't pictures.
        why_not: Why not, in words for after "how a picture becomes ... isn't known".
        mean: The mean image's file.
        labels: The file with the names of the classes.
        notes: What was assumed.
    """

    preprocessing: Preprocessing | None
    why_not: str = ""
    mean: Path | None = None
    labels: Path | None = None
    notes: tuple[str, ...] = ()


def origin_of(file: NetFile, layer: str, shape: Shape, sources: Sources) -> Origin:
    """How a data layer of a TEST net makes pictures into an input.

    Args:
        file: The net.
        layer: The name of the data layer.
        shape: That of the input.
        sources: Where its data is looked up.

    Raises:
        InputError: Its mean file is missing or of another size.
    """
    message, rule = next((m, rule) for _, m, rule in file.known() if m.name == layer)
    source = rule.source
    if source is None or source.kind not in _OF_PICTURES:
        return Origin(None, f"{message.type} layer {layer!r} doesn't read pictures")
    if len(shape) != 4 or shape[1] not in (1, 3):
        return Origin(None, f"its samples of {text(shape[1:])} aren't pictures")
    transform = message.transform_param
    made = Preprocessing(
        channels=shape[1],
        crop=transform.crop_size,
        mean_values=tuple(transform.mean_value),
        scale=transform.scale,
    )
    own: Any = getattr(message, rule.message)
    found = _resized(message, rule, own, sources)
    made = replace(made, resize=found.resize, fit=found.fit)
    mean = None
    if transform.mean_file:
        mean = sources.find(transform.mean_file)
        if blob_shape(mean)[-3:] != (made.channels, *(made.resize or shape[2:])):
            raise InputError(
                f"{mean} has the shape {text(blob_shape(mean))}, and the records of layer "
                f"{layer!r} are {text((made.channels, *(made.resize or shape[2:])))}"
            )
        made = replace(made, mean_file=mean.name)
    return Origin(made, mean=mean, labels=found.labels, notes=found.notes)


@dataclass(frozen=True)
class _Records:
    """How pictures were resized to the records of a source."""

    resize: tuple[int, int] | None
    fit: Fit = "squash"
    labels: Path | None = None
    notes: tuple[str, ...] = ()


def _resized(message: caffe_pb2.LayerParameter, rule: Rule, own: Any, sources: Sources) -> _Records:
    """What is known of it: by dataset.json, by the layer, or by the sizes of the records."""
    if rule.image_size is not None:
        height, width = (getattr(own, name) for name in rule.image_size)
        if height and width:
            return _Records((height, width))
    try:
        source = sources.find(own.source)
    except InputError:
        return _Records(None, notes=(f"the source {own.source!r} isn't there: nothing is resized",))
    if (source.parent / DESCRIPTION).is_file():
        dataset = read_dataset(source.parent)
        labels = dataset.path("labels.txt")
        if dataset.shape is not None:
            fit: Any = dataset.settings.get("fit", "squash")
            return _Records(dataset.shape[1:], fit, labels)
        return _Records(None, labels=labels)
    if not has_records(rule):
        return _Records(None)
    found = sources.contents(message, rule)
    if found.unequal or len(found.shapes[0]) != 3:
        return _Records(None)
    size = (found.shapes[0][1], found.shapes[0][2])
    return _Records(
        size,
        notes=(f"pictures are resized to {size[0]} x {size[1]}, the size of the records",),
    )


def preprocessing_of(found: Mapping[str, Any]) -> Preprocessing:
    """Reads what :meth:`Preprocessing.json` wrote.

    Raises:
        ValueError, TypeError, KeyError: It isn't that.
    """
    resize = found["resize"]
    if found["fit"] not in ("squash", "crop", "pad"):
        raise ValueError(f"fit is {found['fit']!r}")
    return Preprocessing(
        channels=int(found["channels"]),
        resize=None if resize is None else (int(resize[0]), int(resize[1])),
        fit=found["fit"],
        crop=int(found["crop"] or 0),
        mean_values=tuple(map(float, found["mean_values"])),
        mean_file=None if found["mean_file"] is None else str(found["mean_file"]),
        scale=float(found["scale"]),
    )
