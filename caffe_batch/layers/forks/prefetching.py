"""Data layers of forks that branched off before Caffe 1.0: how they read ahead.

Source: base_data_layer.hpp, .cpp, .cu of each fork. In all of them Forward copies the batch into
the top, which has memory of its own. Most have a fixed number of batches (PREFETCH_COUNT), on the
host and the device. SegNet's and ENet's have one, on the host alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from caffe_batch.layers.base import Buffer, Memory, Mode, Shape, Site, count
from caffe_batch.layers.data import Data, ImageData, WindowData
from caffe_batch.layers.sides import sides, top

#: PREFETCH_COUNT of each fork; 0 for one batch that stays on the host.
BATCHES = {"ssd": 3, "rcnn": 3, "deeplab": 5, "pspnet": 5, "segnet": 0}
#: That of forks without a name here, such as the one that CPMData comes from.
OTHER_BATCHES = 3


def copying_memory(
    shapes: Sequence[Shape], mode: Mode, batches: int, others: Sequence[Buffer] = ()
) -> Memory:
    """The memory of a data layer that copies each batch into its tops.

    Args:
        shapes: Those of the tops.
        mode: Where it counts.
        batches: As in :data:`BATCHES`.
        others: Further buffers, filled when the layer is built.
    """
    copies = max(1, batches)
    ahead = [
        Buffer(f"prefetch_{number}", count(shape), copies=copies, prefetch=True)
        for number, shape in enumerate(shapes)
    ]
    on_device = mode == "cpu" or batches > 0
    return Memory(
        buffers=(*ahead, *others),
        build=tuple([buffer.data for buffer in (*ahead, *others)]) if on_device else (),
        forward=sides(top, len(shapes), "data"),
    )


class OlderData(Data):
    """Data with a fork's way to read ahead; whatever ``data_param.prefetch`` says."""

    def __init__(self, fork: str) -> None:
        self.forks = (fork,)
        self.follows = "base_data_layer.hpp, .cpp, .cu"

    def memory(self, site: Site, mode: Mode) -> Memory:
        mean = [each for each in super().memory(site, mode).buffers if not each.prefetch]
        return copying_memory(self.shape(site), mode, BATCHES[self.forks[0]], mean)


class OlderImageData(OlderData, ImageData):
    """ImageData with a fork's way to read ahead."""


class OlderWindowData(OlderData, WindowData):
    """WindowData with a fork's way to read ahead."""
