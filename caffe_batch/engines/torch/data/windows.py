"""WindowData layers: windows of images, drawn at random from foreground and background.

At an image that can't be read Caffe leaves the rest of the batch empty and goes on; here it is an
error. Source: window_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from caffe_batch.engines.torch.data.feeds import Batch, Source
from caffe_batch.engines.torch.data.pictures import read_picture, resize
from caffe_batch.engines.torch.data.transform import Array, mean_image
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.errors import InputError
from caffe_batch.net.data.listing import read_words
from caffe_batch.net.data.windows import WindowedImage, windowed_images
from caffe_batch.schema import caffe_pb2

_Window = tuple[WindowedImage, int, tuple[int, ...]]


class Windows(Source):
    """The batches of a WindowData layer.

    Args:
        layer: The layer.
        find: Finds files.
        draws: The generator that it draws from.
    """

    def __init__(
        self, layer: caffe_pb2.LayerParameter, find: Callable[[str], Path], draws: CaffeRandom
    ) -> None:
        settings, transform = layer.window_data_param, layer.transform_param
        self.batch_size, self.ahead = settings.batch_size, layer.data_param.prefetch
        self._settings, self._find, self._draws = settings, find, draws
        self._crop, self._mirror = transform.crop_size, transform.mirror
        self._mean = mean_image(find(transform.mean_file)) if transform.mean_file else None
        values = np.array(transform.mean_value, np.float32)
        if len(values) not in (0, 1, 3):
            raise InputError(f"{len(values)} mean_value for 3 channels")
        self._values = np.broadcast_to(values, 3) if len(values) else None
        path = find(settings.source)
        try:
            images = list(windowed_images(read_words(path)))
        except ValueError as error:
            raise InputError(f"{path} is not a window file") from error
        self._windows: tuple[list[_Window], list[_Window]] = ([], [])  # background, foreground
        for image in images:
            for label, overlap, *corners in image.windows:
                window = (image, label, tuple(corners))
                if np.float32(overlap) >= settings.fg_threshold:
                    self._windows[1].append(window)
                elif np.float32(overlap) < settings.bg_threshold:
                    self._windows[0].append((image, 0, tuple(corners)))
        if not all(self._windows):
            raise InputError(f"{path} has no windows of the foreground, or none of the background")

    def skip(self, samples: int) -> None:
        self._draws.skip(samples * (1 + self._mirror))

    def read(self) -> Batch:
        settings, size = self._settings, self._crop
        data = np.zeros((self.batch_size, 3, size, size), np.float32)
        labels = np.zeros(self.batch_size, np.float32)
        foreground = int(np.float32(self.batch_size) * np.float32(settings.fg_fraction))
        for index in range(self.batch_size):
            self.skip(self.rank)
            windows = self._windows[index >= self.batch_size - foreground]
            image, label, corners = windows[self._draws.raw() % len(windows)]
            mirrored = self._mirror and bool(self._draws.raw() % 2)
            self.skip(self.ranks - 1 - self.rank)
            picture = read_picture(self._find(settings.root_folder + image.name), 0, 0, color=True)
            try:
                self._warp(picture, corners, data[index], mirrored=mirrored)
            except InputError as error:
                raise InputError(f"{settings.source}: {image.name}: {error.message}") from error
            labels[index] = label
        return Batch((data, labels))

    def _warp(
        self, picture: Array, corners: tuple[int, ...], out: Array, *, mirrored: bool
    ) -> None:
        """Cut a window out of a picture and put it into ``out``, shifted and scaled."""
        left, top, right, bottom = corners
        size, settings = self._crop, self._settings
        height = width = size
        down = across = 0
        square = settings.crop_mode == "square"
        if settings.context_pad > 0 or square:
            one = np.float32
            scale = one(size) / one(size - 2 * settings.context_pad)
            half_height, half_width = one((bottom - top + 1) / 2), one((right - left + 1) / 2)
            middle_x, middle_y = one(left) + half_width, one(top) + half_height
            if square:
                half_height = half_width = max(half_height, half_width)
            left = _rounded(middle_x - half_width * scale)
            right = _rounded(middle_x + half_width * scale)
            top = _rounded(middle_y - half_height * scale)
            bottom = _rounded(middle_y + half_height * scale)
            whole_height, whole_width = bottom - top + 1, right - left + 1
            pads = [max(0, -left), max(0, -top)]
            pads += [max(0, right - picture.shape[2] + 1), max(0, bottom - picture.shape[1] + 1)]
            left, top, right, bottom = (
                left + pads[0], top + pads[1], right - pads[2], bottom - pads[3]
            )  # fmt: skip
            scale_x, scale_y = one(size) / one(whole_width), one(size) / one(whole_height)
            width = _rounded(one(right - left + 1) * scale_x)
            height = _rounded(one(bottom - top + 1) * scale_y)
            down = _rounded(one(pads[1]) * scale_y)
            across = _rounded(one(pads[2 if mirrored else 0]) * scale_x)
            height, width = min(height, size - down), min(width, size - across)
        if not (0 <= left <= right < picture.shape[2] and 0 <= top <= bottom < picture.shape[1]):
            given = " ".join(map(str, corners))  # OpenCV, which cuts it out in Caffe, throws
            raise InputError(
                f"the window {given} isn't inside the image of {picture.shape[2]} x "
                f"{picture.shape[1]} pixels"
            )
        warped = resize(picture[:, top : bottom + 1, left : right + 1], height, width)
        values = warped[:, :, :: -1 if mirrored else 1].astype(np.float32)
        if self._mean is not None:
            skipped = (self._mean.shape[2] - size) // 2
            values -= self._mean[
                :, skipped + down : skipped + down + height,
                skipped + across : skipped + across + width,
            ]  # fmt: skip
        elif self._values is not None:
            values -= self._values[:, None, None]
        values *= np.float32(settings.scale)
        out[:, down : down + height, across : across + width] = values


def _rounded(value: np.float32) -> int:
    """The nearest whole number, halves away from zero as C's ``round``."""
    return int(np.copysign(np.floor(np.abs(np.float64(value)) + 0.5), value))
