"""Im2col: the columns of a convolution, for the whole batch."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Plain
from caffe_batch.engines.torch.layers.convolution import long_enough
from caffe_batch.layers.spatial import window


class Im2col(Plain):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.window = window(place.settings, place.site.bottoms[0])

    def needs(self) -> tuple[bool, ...]:
        """Caffe's Backward doesn't look at propagate_down."""
        return (self.place.site.backward,)

    def function(self, x: Tensor) -> Tensor:
        win = self.window
        batch = x.shape[: win.axis]
        images = long_enough(x.reshape(-1, *x.shape[win.axis :]), win)
        padded = functional.pad(images, [p for pad in reversed(win.pad) for p in (pad, pad)])
        sizes = win.positions(tuple(images.shape[2:]))
        columns = []
        for place in product(*(range(size) for size in win.kernel)):
            part = padded
            for axis, at in enumerate(place):
                start, stride = at * win.dilation[axis], win.stride[axis]
                end = start + stride * (sizes[axis] - 1) + 1
                part = part.narrow(2 + axis, start, end - start)
                part = part[(slice(None),) * (2 + axis) + (slice(None, None, stride),)]
            columns.append(part)
        return torch.stack(columns, 2).reshape(*batch, -1, *sizes)
