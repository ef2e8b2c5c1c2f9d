"""What ``transform_param`` does to a sample: crop, mirror, mean and scale.

Pixels are cropped and mirrored where they are read, and stay bytes; the mean and the scale are
applied to a whole batch, on the device that trains. The values are Caffe's to the bit: (pixel -
mean) * scale in float32, in this order. Source: data_transformer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Phase
from caffe_batch.net.data.blob_file import blob_shape, text
from caffe_batch.schema import caffe_pb2

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Cut:
    """Where a sample was cut out of its record.

    Attributes:
        top, left: The first row and column.
        mirrored: Whether it was mirrored after that.
        record: Height and width of the record.
    """

    top: int
    left: int
    mirrored: bool
    record: tuple[int, int]


class Transform:
    """The transformation of one layer.

    Args:
        parameter: Its settings.
        phase: Crops are at random in TRAIN, and from the middle in TEST.
        find: Finds files.
        draws: Caffe's random numbers: of the transformation's own generator.

    Attributes:
        crop_size: The size of the crops; 0 for none.
        before, after: Samples that other ranks transform before and after each one here.
    """

    def __init__(
        self,
        parameter: caffe_pb2.TransformationParameter,
        phase: Phase,
        find: Callable[[str], Path],
        draws: CaffeRandom | None,
    ) -> None:
        self.crop_size: int = parameter.crop_size
        self.before = self.after = 0
        self._mirrors, self._at_random = parameter.mirror, phase == "TRAIN"
        self._scale: float = parameter.scale
        self._draws = draws
        self._values = tuple(parameter.mean_value)
        self._image = mean_image(find(parameter.mean_file)) if parameter.mean_file else None
        self._means: torch.Tensor | None = None  # on the device

    @property
    def draws_of_a_sample(self) -> int:
        """How many random numbers it takes for each sample."""
        return self._mirrors + 2 * (self.crop_size > 0 and self._at_random)

    def skip(self, samples: int) -> None:
        """Take the random numbers of some samples without using them."""
        if self._draws is not None:
            self._draws.skip(samples * self.draws_of_a_sample)

    def cut(self, record: Array) -> tuple[Array, Cut]:
        """Crop and mirror a record of the shape (C, H, W), without a copy.

        Raises:
            InputError: It is smaller than the crop, or not of the mean's size.
        """
        channels, height, width = record.shape
        size = self.crop_size
        if size > min(height, width):
            raise InputError(f"a record of {height} x {width} is smaller than crop_size {size}")
        if self._image is not None and record.shape != self._image.shape:
            raise InputError(
                f"a record is {text(record.shape)} and the mean file {text(self._image.shape)}"
            )
        if len(self._values) not in (0, 1, channels):
            raise InputError(f"{len(self._values)} mean_value for {channels} channels")
        self.skip(self.before)
        mirrored = self._mirrors and bool(self._drawn() % 2)
        top = left = 0
        if size and self._at_random:
            top, left = self._drawn() % (height - size + 1), self._drawn() % (width - size + 1)
        elif size:
            top, left = (height - size) // 2, (width - size) // 2
        self.skip(self.after)
        if size:
            record = record[:, top : top + size, left : left + size]
        if mirrored:
            record = record[:, :, ::-1]
        return record, Cut(top, left, mirrored, (height, width))

    def _drawn(self) -> int:
        assert self._draws is not None  # noqa: S101  # the layer has seeded it
        return self._draws.raw()

    def shifted(self, pixels: torch.Tensor, cuts: tuple[Cut, ...]) -> torch.Tensor:
        """The values of a batch (N, C, H, W), on the device where the pixels are.

        Args:
            pixels: As they were cut.
            cuts: Where, for each sample.
        """
        values = pixels.to(torch.float32)
        if self._image is not None or self._values:
            values = values.sub_(self._mean(values, cuts))
        return values if self._scale == 1 else values.mul_(self._scale)

    def _mean(self, values: torch.Tensor, cuts: tuple[Cut, ...]) -> torch.Tensor:
        if self._means is None or self._means.device != values.device:
            own = (
                np.array(self._values, np.float32)[:, None, None]
                if self._image is None
                else self._image
            )
            self._means = torch.from_numpy(np.ascontiguousarray(own)).to(values.device)
        if self._image is None:
            return self._means
        height, width = values.shape[2:]
        if len({(cut.top, cut.left, cut.mirrored) for cut in cuts}) == 1:
            first = cuts[0]
            mean = self._means[:, first.top : first.top + height, first.left : first.left + width]
            return mean.flip(2) if first.mirrored else mean
        where = torch.tensor([(cut.top, cut.left) for cut in cuts], device=values.device)
        flipped = torch.tensor([cut.mirrored for cut in cuts], device=values.device)
        rows = where[:, :1] + torch.arange(height, device=values.device)
        columns = torch.arange(width, device=values.device).expand(len(cuts), width)
        columns = where[:, 1:] + torch.where(flipped[:, None], width - 1 - columns, columns)
        return self._means[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def needs_draws(parameter: caffe_pb2.TransformationParameter, phase: Phase) -> bool:
    """Whether Caffe seeds a generator for a transformation (DataTransformer::InitRand)."""
    return parameter.mirror or (phase == "TRAIN" and parameter.crop_size > 0)


def mean_image(path: Path) -> Array:
    """The mean image of a file, of the shape (C, H, W) and in float32.

    Raises:
        InputError: It isn't a file with one image.
    """
    shape = blob_shape(path)
    blob = caffe_pb2.BlobProto.FromString(path.read_bytes())
    if len(shape) > 4 or len(shape) < 3 or (len(shape) == 4 and shape[0] != 1):
        raise InputError(f"{path} has the shape {text(shape)}, which isn't that of one image")
    values = np.array(blob.double_data if blob.double_data else blob.data, np.float32)
    return values.reshape(shape[-3:])
