"""Decodes and resizes a picture as Caffe's convert_imageset does.

Pillow reads the files: it finds out what is damaged, where OpenCV gives a picture with a gray rest.
For what both read in the same way the pixels are the same. OpenCV does what they do differently, if
it is installed: resizing, gray from colours, CMYK, 16 bits.

Source: io.cpp (ReadImageToCVMat), loadsave.cpp of OpenCV (which applies the orientation too).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from caffe_batch.datasets.settings import Settings
from caffe_batch.net.data.extras import MissingExtraError, extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # (height, width, channels); blue, green, red

#: The most pixels of a picture: 400 MB once it is decoded.
MOST_PIXELS = 1 << 27

#: What a picture may be, beside an upright one of 8 bits a channel; said before their number.
REMARKS = {
    "turned": "Turned upright, as the EXIF orientation says",
    "alpha": "Partly transparent, which is ignored",
    "palette": "With a palette, whose colours are looked up",
    "cmyk": "In CMYK, which becomes blue, green and red",
    "deep": "With 16 bits or more a channel, of which the upper 8 are kept",
    "animated": "With several pictures (animations, pages), of which the first is kept",
}

_ORIENTATION = 0x0112  # a tag of EXIF
_QUALITY = 95  # of OpenCV's imencode


class DamagedPictureError(Exception):
    """A picture that can't be used, with the reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: Its values, with one or three channels.
        remarks: Names from ``REMARKS``.
        gray: Whether the file has one channel.
        kind: ``jpg`` or ``png`` if the file is one.
        as_is: Whether Caffe decodes just these pixels from the file, whatever it is asked for.
    """

    pixels: Pixels
    remarks: tuple[str, ...]
    gray: bool
    kind: str | None
    as_is: bool


def require_reader() -> None:
    """Raise a MissingExtraError if pictures can't be read here."""
    for module in ("PIL.Image", "numpy"):
        extra(module, "data", "pictures")


@cache
def opencv() -> Any:
    """OpenCV, with one thread; None if it isn't installed."""
    try:
        cv2 = extra("cv2", "data", "pictures")
    except MissingExtraError:
        return None
    cv2.setNumThreads(1)
    return cv2


def decoded(data: bytes, *, gray: bool) -> Picture:
    """The pixels of an image file.

    Args:
        data: Its bytes.
        gray: One channel instead of three.

    Raises:
        DamagedPictureError: It isn't a whole picture, or a huge one.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks of Pillow's on odd files
        try:
            with Image.open(BytesIO(data)) as image:
                return _decoded(image, data, gray)
        except DamagedPictureError:
            raise
        except (Image.DecompressionBombError, MemoryError) as error:
            raise DamagedPictureError(f"too large: more than {MOST_PIXELS:,} pixels") from error
        except UnidentifiedImageError as error:
            raise DamagedPictureError("not an image file" if data else "an empty file") from error
        except Exception as error:  # a decoder may raise anything at a damaged file
            raise DamagedPictureError(f"damaged ({error})") from error


def _decoded(image: Any, data: bytes, gray: bool) -> Picture:
    import numpy as np
    from PIL import ImageOps

    if image.width * image.height > MOST_PIXELS:
        raise DamagedPictureError(
            f"too large: {image.width:,} x {image.height:,} pixels; {MOST_PIXELS:,} are the most"
        )
    kind = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}.get(image.format)
    mode, remarks = image.mode, list[str]()
    is_deep = mode.startswith(("I", "F"))
    if is_deep or any(map(_is_deep, image.tile)):
        remarks.append("deep")
    alpha = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if image.format != "MPO" and getattr(image, "is_animated", False):
        remarks.append("animated")
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        remarks.append("turned")
    if gray and kind == "jpg" and mode != "CMYK":
        image.draft("L", image.size)  # the brightness that the file has itself
    image.load()
    remarks += ["alpha"] if alpha else []
    remarks += ["palette"] if mode in ("P", "PA") else []
    remarks += ["cmyk"] if mode in ("CMYK", "YCCK") else []
    is_gray = mode in ("1", "L", "LA", "La") or is_deep
    wanted = "L" if gray else "RGB"
    plain = {"1", "L", "LA", "La"} if gray else {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
    pixels: Any = None
    cv2 = opencv()
    if image.mode not in plain and cv2 is not None:
        how = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if pixels is None:
        upright = ImageOps.exif_transpose(image) if "turned" in remarks else image
        if is_deep:
            upright = _upper_bits(upright)
        pixels = np.asarray(upright if upright.mode == wanted else upright.convert(wanted))
        if not gray:
            blue_first = None if cv2 is None else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            pixels = pixels[:, :, ::-1] if blue_first is None else blue_first
    pixels = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))
    as_is = kind is not None and not remarks and mode == wanted
    return Picture(pixels, tuple(remarks), is_gray, kind, as_is)


def _is_deep(tile: Any) -> bool:
    """Whether a part of a file has 16 bits a channel; Pillow drops the lower 8 of colours."""
    how = tile[3]
    packing = how[0] if isinstance(how, tuple) and how else how
    return isinstance(packing, str) and ";16" in packing


def _upper_bits(image: Any) -> Any:
    """A picture of 16-bit values as one of 8 bits; other deep ones are cut off at 0 and 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind in "iu":
        values = values >> 8
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8), "L")


def fitted(pixels: Pixels, settings: Settings) -> Pixels:
    """The pixels of a record from those of a picture."""
    if settings.resize is None:
        return pixels
    height, width = settings.resize
    own_height, own_width = pixels.shape[:2]
    if settings.fit == "squash" or own_height * width == own_width * height:
        return _resized(pixels, height, width)
    import numpy as np

    choose = max if settings.fit == "crop" else min
    scale = choose(height / own_height, width / own_width)
    scaled = [max(1, round(side * scale)) for side in (own_height, own_width)]
    if settings.fit == "crop":
        scaled = [max(scaled[0], height), max(scaled[1], width)]
        large = _resized(pixels, *scaled)
        top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
        return np.ascontiguousarray(large[top : top + height, left : left + width])
    scaled = [min(scaled[0], height), min(scaled[1], width)]
    padded = np.zeros((height, width, pixels.shape[2]), np.uint8)
    top, left = (height - scaled[0]) // 2, (width - scaled[1]) // 2
    padded[top : top + scaled[0], left : left + scaled[1]] = _resized(pixels, *scaled)
    return padded


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    import numpy as np

    if pixels.shape[:2] == (height, width):
        return pixels
    cv2 = opencv()
    if cv2 is not None:
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    else:
        small = _by_pillow(pixels, lambda image: image.resize((width, height), 2))  # BILINEAR
    return np.asarray(small, np.uint8).reshape(height, width, -1)


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """The pixels of a picture that is no longer than ``side`` on any side."""
    longest = max(pixels.shape[:2])
    if longest <= side:
        return pixels
    height, width = (max(1, size * side // longest) for size in pixels.shape[:2])
    return _resized(pixels, height, width)


def encoded(pixels: Pixels, kind: str) -> bytes:
    """An image file of some pixels: ``jpg`` or ``png``."""
    cv2 = opencv()
    if cv2 is not None:
        return bytes(cv2.imencode(f".{kind}", pixels)[1])
    stream = BytesIO()
    more = {"quality": _QUALITY} if kind == "jpg" else {}
    _image(pixels).save(stream, {"jpg": "JPEG", "png": "PNG"}[kind], **more)
    return stream.getvalue()


def _by_pillow(pixels: Pixels, change: Callable[[Any], Any]) -> Pixels:
    import numpy as np

    changed: Pixels = np.asarray(change(_image(pixels)))
    return changed if changed.ndim == 2 else changed[:, :, ::-1]


def _image(pixels: Pixels) -> Any:
    """Pixels as Pillow's image."""
    from PIL import Image

    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, ::-1])
