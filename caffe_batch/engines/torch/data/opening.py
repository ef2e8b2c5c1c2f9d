"""Opens the sources of the data layers, in Caffe's order: they share generators and databases.

Sources: base_data_layer.cpp (LayerSetUp), internal_thread.cpp, and those of the types.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from caffe_batch.engines.torch.data.feeds import Source
from caffe_batch.engines.torch.data.hdf5 import Hdf5Rows
from caffe_batch.engines.torch.data.listed import ListedImages
from caffe_batch.engines.torch.data.records import Databases, Datums
from caffe_batch.engines.torch.data.transform import Transform, needs_draws
from caffe_batch.engines.torch.data.windows import Windows
from caffe_batch.engines.torch.draws import CaffeRandom, LibcRandom
from caffe_batch.layers.base import Phase
from caffe_batch.schema import caffe_pb2


class Opener:
    """Opens the data layers of a worker's nets, one after another as Caffe creates them.

    Args:
        draws: Caffe's generator of the main thread, which fillers draw from as well.
        find: Finds files.
        rank, ranks: Which of several ranks this is: it reads its share of the training's records.

    Attributes:
        libc: What HDF5Data layers shuffle with.
    """

    def __init__(
        self, draws: CaffeRandom, find: Callable[[str], Path], rank: int = 0, ranks: int = 1
    ) -> None:
        self.libc = LibcRandom()
        self._rank, self._ranks = rank, ranks
        self._draws, self._find = draws, find
        self._databases = Databases()
        self._openers = {
            "Data": self._data,
            "HDF5Data": self._hdf5_data,
            "ImageData": self._image_data,
            "WindowData": self._window_data,
        }

    def reads(self, layer_type: str) -> bool:
        """Whether layers of this type are opened here."""
        return layer_type in self._openers

    def open(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        """The source of a layer, at its first record.

        Args:
            layer: The layer.
            phase: Of its net.

        Raises:
            InputError: It can't be opened.
        """
        source = self._openers[layer.type](layer, phase)
        if phase == "TRAIN":
            source.share_out(self._rank, self._ranks)
        return source

    def close(self) -> None:
        """Close the databases."""
        self._databases.close()

    def _seeded(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> CaffeRandom | None:
        """A transformation's generator, if it needs one (DataTransformer::InitRand)."""
        return self._draws.child() if needs_draws(layer.transform_param, phase) else None

    def _start_thread(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> CaffeRandom | None:
        """What starting a layer's thread draws; its transformation's second generator."""
        seeded = self._seeded(layer, phase)
        self._draws.skip(1)
        return seeded

    def _data(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        settings = layer.data_param
        lmdb = settings.backend == caffe_pb2.DataParameter.LMDB
        database = self._databases.get(self._find(settings.source), lmdb=lmdb)
        self._seeded(layer, phase)
        draws = self._start_thread(layer, phase)
        return Datums(layer, database, Transform(layer.transform_param, phase, self._find, draws))

    def _image_data(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        settings = layer.image_data_param
        self._seeded(layer, phase)
        shuffled = self._draws.child() if settings.shuffle else None
        first = self._draws.raw() % settings.rand_skip if settings.rand_skip else 0
        draws = self._start_thread(layer, phase)
        transform = Transform(layer.transform_param, phase, self._find, draws)
        return ListedImages(layer, self._find, transform, shuffled, first)

    def _window_data(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        self._seeded(layer, phase)
        draws = self._draws.child()  # a crop_size is required
        self._start_thread(layer, phase)
        return Windows(layer, self._find, draws)

    def _hdf5_data(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        return Hdf5Rows(layer, self._find, self.libc)
