"""The size of an image as OpenCV would decode it, read from its header."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import extra

#: EXIF orientations with a quarter turn (OpenCV's imread applies them).
_QUARTER_TURNS = {5, 6, 7, 8}
_EXIF_ORIENTATION = 0x0112


def image_reader(what: str) -> Any:
    """The library that reads images; ``what`` it would read, for the message.

    Raises:
        MissingExtraError: It isn't installed.
    """
    return extra("PIL.Image", "images", what)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file.

    Raises:
        MissingExtraError: The library isn't installed.
        InputError: It isn't a readable image.
    """
    images = image_reader(f"the image {path}")
    if not path.is_file():  # a pipe would block
        raise InputError(f"{path} is not a readable image (it is not a file)")
    try:
        with images.open(path) as image:
            if image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
                return image.width, image.height
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, images.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({error})") from error


def encoded_shape(data: bytes, color: bool | None) -> tuple[tuple[int, int, int], Any]:
    """Channels, height and width of an encoded record, and the image, still to be decoded.

    Args:
        data: The file's bytes.
        color: True to force three channels, False to force one; None for the image's own.

    Raises:
        MissingExtraError: The library isn't installed.
        InputError: It isn't a readable image.
    """
    images = image_reader("encoded records")
    try:
        image = images.open(BytesIO(data))
        bands, height, width = image.getbands(), image.height, image.width
    except (OSError, SyntaxError, ValueError, images.DecompressionBombError) as error:
        raise InputError("no readable image") from error
    if color is not None:
        channels = 3 if color else 1
    else:
        # Palette images are looked up, CMYK becomes BGR; all others keep their channels.
        channels = {("P",): 3, tuple("CMYK"): 3}.get(bands, len(bands))
    return (channels, height, width), image
