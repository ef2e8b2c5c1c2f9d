"""The shape of the one blob in a file: a mean image, an infogain matrix.

Source: blob.cpp (FromProto, LegacyShape). Only tags and lengths are read: a wrong file may be
gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.files import open_regular
from caffe_batch.layers.base import Shape
from caffe_batch.net.data.listing import what_else
from caffe_batch.prototxt.wire import DamagedMessageError, WireMessage, open_message
from caffe_batch.schema import caffe_pb2

_OLD_AXES = ("num", "channels", "height", "width")


def blob_shape(path: Path) -> Shape:
    """The shape of the blob that a file holds.

    Raises:
        InputError: It isn't a BlobProto, or its shape asks for another number of values.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        with open_regular(path) as file:
            known = what_else(file.read(16), binary=True)
        if known is not None:
            raise InputError(
                f"{path} is not a BlobProto: it is {known}",
                hint="Caffe's compute_image_mean writes mean files; caffe.io.array_to_blobproto "
                "converts arrays.",
            )
        with open_message(path) as message:
            blob = read_blob(message)
    except DamagedMessageError as damage:
        raise InputError(f"{path} is not a BlobProto: {damage}") from damage
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    if blob.values != prod(blob.shape):
        raise InputError(f"{path} has {blob.values:,} values for the shape {text(blob.shape)}")
    return blob.shape


@dataclass(frozen=True, slots=True)
class Blob:
    """What a BlobProto says about itself.

    Attributes:
        shape: Its axes; four in the old syntax.
        values: How many values there are; None if they weren't counted.
        old: Whether it is in the old syntax (num, channels, height, width).
    """

    shape: Shape
    values: int | None = None
    old: bool = False

    def equals(self, shape: Shape) -> bool:
        """Whether Caffe accepts it as a blob of this shape (Blob::ShapeEquals)."""
        if not self.old:
            return self.shape == shape
        return len(shape) <= 4 and self.shape == (1,) * (4 - len(shape)) + tuple(shape)


def read_blob(message: WireMessage) -> Blob:
    """What a BlobProto says about itself, without its values.

    Raises:
        DamagedMessageError: It is cut off or damaged.
    """
    proto = caffe_pb2.BlobProto.DESCRIPTOR
    old = [list(message.numbers(proto, name)) for name in _OLD_AXES]
    if any(old):
        shape: Shape = tuple(values[-1] if values else 0 for values in old)
    else:
        shape = tuple(
            size
            for part in message.messages(proto, "shape")
            for size in part.packed_numbers(caffe_pb2.BlobShape.DESCRIPTOR, "dim")
        )
    counts = (
        sum(part.size for part in message.messages(proto, name)) // size
        for name, size in (("data", 4), ("double_data", 8))
    )
    return Blob(shape, max(counts), old=any(old))


def text(shape: Shape) -> str:
    """A shape as words for a sentence."""
    return " x ".join(map(str, shape)) or "a number"
