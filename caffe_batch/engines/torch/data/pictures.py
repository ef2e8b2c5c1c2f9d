"""Decodes and resizes images with OpenCV, whose arithmetic is what Caffe computes with.

Sources: io.cpp (ReadImageToCVMat, DecodeDatumToCVMat), window_data_layer.cpp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from caffe_batch.engines.torch.data.transform import Array
from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import extra


def _opencv() -> Any:
    return extra("cv2", "images", "images as Caffe does")


def decode(data: bytes, color: bool | None) -> Array:
    """The pixels (C, H, W) of an encoded image, in OpenCV's order: blue, green, red.

    Args:
        data: The file's bytes.
        color: True for three channels, False for one, None for the image's own.

    Raises:
        InputError: It isn't an image with 8 bits a channel, or OpenCV isn't installed.
    """
    cv2 = _opencv()
    how = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    return _planes(cv2.imdecode(np.frombuffer(data, np.uint8), how), "it is no image")


def read_picture(path: Path, height: int, width: int, *, color: bool) -> Array:
    """The pixels (C, H, W) of an image file.

    Args:
        path: The file.
        height: What it is resized to; 0 for its own size.
        width: The same.
        color: Three channels; otherwise one.

    Raises:
        InputError: It can't be read, or OpenCV isn't installed.
    """
    cv2 = _opencv()
    image = cv2.imread(str(path), cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
    if image is not None and height and width:
        image = cv2.resize(image, (width, height))
    return _planes(image, f"{path} is no readable image")


def resize(image: Array, height: int, width: int) -> Array:
    """Another size of some pixels (C, H, W), by linear interpolation."""
    cv2 = _opencv()
    rows = np.ascontiguousarray(image.transpose(1, 2, 0))
    return _planes(cv2.resize(rows, (width, height), interpolation=cv2.INTER_LINEAR), "")


def _planes(image: Any, problem: str) -> Array:
    """The planes (C, H, W) of an image as OpenCV has it."""
    if image is None:
        raise InputError(problem)
    if image.dtype != np.uint8:
        raise InputError(f"its channels have {8 * image.dtype.itemsize} bits, and Caffe takes 8")
    pixels: Array = np.atleast_3d(image).transpose(2, 0, 1)
    return pixels
