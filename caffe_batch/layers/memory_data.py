"""MemoryData: arrays that a program gives to the net. Source: memory_data_layer.cpp.

It has no GPU code: the layers after it copy to the device what they need of its tops. The label's
shape is (N,) when the net is built and (N, 1, 1, 1) from the first Forward on.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Memory, Mode, Rule, Shape, Site, count
from caffe_batch.layers.sides import top


@dataclass(frozen=True, slots=True)
class MemoryDataSettings:
    batch_size: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0


class MemoryData(Rule):
    """Its tops point into arrays that the program gives it, or that it fills from images."""

    type = "MemoryData"
    message = "memory_data_param"
    other_messages = ("transform_param",)
    settings = MemoryDataSettings
    bottoms = (0, 0)
    tops = (2, 2)
    has_batch_size = True
    fed_by_program = True
    record_order = "An update reads the same rows; the arrays must hold a multiple of batch_size."
    image_size = ("height", "width")

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: MemoryDataSettings = site.settings
        data = (s.batch_size, s.channels, s.height, s.width)
        if 0 in data:
            raise ShapeError(
                "memory_data_param needs batch_size, channels, height and width, at least 1 each"
            )
        return data, (s.batch_size,)

    def memory(self, site: Site, mode: Mode) -> Memory:
        if mode == "gpu":
            return Memory()
        data, label = self.shape(site)
        buffers = Buffer("added_data_", count(data)), Buffer("added_label_", count(label))
        return Memory(
            buffers=buffers,
            build=tuple([buffer.data for buffer in buffers]),
            shares=tuple([(top(i).data, buffer.data) for i, buffer in enumerate(buffers)]),
        )
