"""ImageData layers: the images of a list.

Source: image_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from caffe_batch.engines.torch.data.feeds import Batch, Source
from caffe_batch.engines.torch.data.pictures import read_picture
from caffe_batch.engines.torch.data.records import stacked
from caffe_batch.engines.torch.data.transform import Array, Cut, Transform
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.images import parse_line
from caffe_batch.net.data.listing import read_lines
from caffe_batch.schema import caffe_pb2


class ListedImages(Source):
    """The batches of an ImageData layer.

    Args:
        layer: The layer.
        find: Finds files.
        transform: Its transformation.
        draws: The generator that shuffles its list; None if it doesn't.
        first: The number of the line that it starts with (``rand_skip``).
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        find: Callable[[str], Path],
        transform: Transform,
        draws: CaffeRandom | None,
        first: int,
    ) -> None:
        settings = layer.image_data_param
        self.batch_size, self.ahead = settings.batch_size, layer.data_param.prefetch
        self.transform: Transform = transform
        self._settings, self._find, self._draws, self._place = settings, find, draws, first
        listing = find(settings.source)
        lines = [parse_line(number, line) for number, line in enumerate(read_lines(listing), 1)]
        self._images = [(settings.root_folder + line.name, line.label) for line in lines]
        if first >= len(lines):
            raise InputError(
                f"image list {listing} has {len(lines):,} lines, and rand_skip leaves out {first:,}"
            )
        self._shuffle()

    def _shuffle(self) -> None:
        if self._draws is not None:
            self._draws.shuffle(self._images)

    def skip(self, samples: int) -> None:
        self._go_on(samples)
        self.transform.skip(samples)

    def _go_on(self, images: int) -> None:
        epochs, self._place = divmod(self._place + images, len(self._images))
        for _ in range(epochs):
            self._shuffle()

    def _picture(self, name: str) -> Array:
        """The pixels of an image of the list.

        Raises:
            InputError: It can't be read.
        """
        settings = self._settings
        size = settings.new_height, settings.new_width
        try:
            return read_picture(self._find(name), *size, color=settings.is_color)
        except MissingExtraError:
            raise
        except InputError as error:
            raise InputError(f"Could not load {name}: {error.message}") from error

    def read(self) -> Batch:
        samples: list[Array] = []
        labels = np.empty(self.batch_size, np.float32)
        cuts: list[Cut] = []
        for index in range(self.batch_size):
            self._go_on(self.rank)
            name, label = self._images[self._place]
            pixels = self._picture(name)
            sample, cut = self.transform.cut(pixels)
            samples.append(sample)
            cuts.append(cut)
            labels[index] = label
            self._go_on(self.ranks - self.rank)
        return Batch((stacked(samples), labels), tuple(cuts))
