"""Data layers without data: batches of zeros in the sizes and types of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from caffe_batch.engines.torch.data.feeds import Batch, Source
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.data.transform import Cut, Transform
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Phase, Shape
from caffe_batch.layers.facts import SourceKind
from caffe_batch.net.graph import Net
from caffe_batch.schema import caffe_pb2

#: The sources whose records' first top is read as bytes.
_BYTES = (SourceKind.DATABASE, SourceKind.IMAGE_LIST)


class BlankOpener(Opener):
    """Opens data layers whose sources need not exist.

    Args:
        draws: As for :class:`Opener`.
        find: Finds mean files; one that it doesn't find is taken for a single number.
        graph: The net whose layers are opened; it has the shapes.
    """

    def __init__(self, draws: CaffeRandom, find: Callable[[str], Path], graph: Net) -> None:
        super().__init__(draws, find)
        self._tops: Mapping[str, tuple[Shape, ...]] = {
            node.layer.name: tuple(graph.blobs[top].shape for top in node.tops)
            for node in graph.nodes
        }
        self._of_bytes = {
            node.layer.name
            for node in graph.nodes
            if node.rule.source is not None and node.rule.source.kind in _BYTES
        }

    def open(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Source:
        return _Blank(self._tops[layer.name], self._transform(layer, phase))

    def _transform(self, layer: caffe_pb2.LayerParameter, phase: Phase) -> Transform | None:
        if layer.name not in self._of_bytes:
            return None
        parameter = layer.transform_param
        try:
            return Transform(parameter, phase, self._find, None)
        except (InputError, OSError):
            known = caffe_pb2.TransformationParameter()
            known.CopyFrom(parameter)
            known.ClearField("mean_file")
            known.mean_value[:] = [0]
            return Transform(known, phase, self._find, None)


class _Blank(Source):
    """The same zeros for every pass.

    Args:
        shapes: Of the tops.
        transform: What is done to the first one; None if it isn't read as bytes.
    """

    def __init__(self, shapes: tuple[Shape, ...], transform: Transform | None) -> None:
        self.transform, self._shapes = transform, shapes
        self.batch_size = shapes[0][0] if shapes and shapes[0] else 1

    def read(self) -> Batch:
        first = np.float32 if self.transform is None else np.uint8
        types = (first, *(np.float32,) * len(self._shapes))
        tops = tuple(np.zeros(*each) for each in zip(self._shapes, types, strict=False))
        if self.transform is None:
            return Batch(tops)
        mirrors = self.transform.draws_of_a_sample > 0  # so that the samples differ in their cuts
        size = (self._shapes[0][2], self._shapes[0][3])
        cuts = tuple(Cut(0, 0, mirrors and i % 2 == 1, size) for i in range(self.batch_size))
        return Batch(tops, cuts)

    def skip(self, samples: int) -> None:
        return
