"""Upsample: the places that a MAX pooling took its values from, filled again."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer, imitate
from caffe_batch.errors import InputError


class Upsample(TorchLayer):
    """Where two values go to one place the last one stays; both get the gradient of the place."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x = bottoms[0]
        (shape,) = self.place.shapes(bottoms)
        if len(bottoms) == 1:
            scale = shape[-1] // x.shape[-1]
            return (x.repeat_interleave(scale, -2).repeat_interleave(scale, -1),)
        places = bottoms[1].detach().long().flatten(2)
        size = shape[2] * shape[3]
        if places.numel() and int(places.max()) >= size:
            raise InputError(
                f"layer {self.place.name!r}: the mask names place {int(places.max())}, and a top "
                f"of {shape[2]} x {shape[3]} has {size}",
                hint="Its size is that of the input of the pooling which made the mask.",
            )
        # In Caffe's order: of several values for one place the last one.
        last = _last(places, size)
        top = x.new_zeros((*shape[:2], size))
        top.scatter_(2, places, x.detach().flatten(2).gather(2, last.gather(2, places)))

        def backward(gradient: Tensor) -> tuple[Tensor, None]:
            return gradient.flatten(2).gather(2, places).view(x.shape), None

        return (imitate(top.view(shape), backward, x, bottoms[1]),)


def _last(places: Tensor, size: int) -> Tensor:
    """For each place, the number of the last value that goes there."""
    numbers = torch.arange(places.shape[2], device=places.device).expand_as(places)
    empty = places.new_zeros((*places.shape[:2], size))
    return empty.scatter_reduce(2, places, numbers, "amax", include_self=True)
