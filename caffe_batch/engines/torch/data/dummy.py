"""DummyData layers: constants, or random numbers anew in each pass.

Source: dummy_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caffe_batch.engines.torch.data.feeds import Batch, Source
from caffe_batch.engines.torch.data.transform import Array
from caffe_batch.layers.base import Shape
from caffe_batch.schema import caffe_pb2

#: Makes the values of a blob of that shape.
Fill = Callable[[caffe_pb2.FillerParameter, Shape], Array]


class DummyTops(Source):
    """The batches of a DummyData layer.

    Args:
        layer: The layer.
        shapes: Those of its tops.
        fill: Draws from Caffe's generator of the main thread.
    """

    def __init__(
        self, layer: caffe_pb2.LayerParameter, shapes: Sequence[Shape], fill: Fill
    ) -> None:
        self.batch_size = shapes[0][0] if shapes[0] else 1
        fillers = layer.dummy_data_param.data_filler or [caffe_pb2.FillerParameter()]
        each = [*fillers] if len(fillers) > 1 else [fillers[0]] * len(shapes)
        self._tops = [
            (filler, shape, fill(filler, shape) if filler.type == "constant" else None)
            for filler, shape in zip(each, shapes, strict=True)
        ]
        self._fill = fill

    def read(self) -> Batch:
        return Batch(
            tuple(
                self._fill(filler, shape) if constant is None else constant
                for filler, shape, constant in self._tops
            )
        )

    def skip(self, samples: int) -> None:
        for _ in range(samples // self.batch_size):
            self.read()
