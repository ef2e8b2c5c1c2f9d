"""Convolution and Deconvolution over any number of spatial axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import (
    Place,
    Tensors,
    TorchLayer,
    channels_last,
    weights_and_bias,
)
from caffe_batch.layers.spatial import Window, window
from caffe_batch.schema import caffe_pb2

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}

#: The first two axes, whole.
_BOTH: tuple[slice, slice] = (slice(None), slice(None))


class Convolution(TorchLayer):
    """One kernel over all bottoms."""

    fresh = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.window: Window = window(place.settings, place.site.bottoms[0])
        self.group: int = place.settings.group
        self.axes = len(self.window.kernel)

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return weights_and_bias(self.place.message.convolution_param)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        weights, bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        axis = self.window.axis
        tops = []
        for x in bottoms:
            if axis == 1 and self.axes in _CONVOLUTIONS:
                tops.append(self.slide(x, weights, bias))
                continue
            batch = x.shape[:axis]
            y = self.slide(x.reshape(-1, *x.shape[axis:]), weights, bias)
            tops.append(y.reshape(*batch, *y.shape[1:]))
        return tops

    def slide(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Slides the kernel over an input (N, C, ...)."""
        win = self.window
        x = channels_last(long_enough(x, win))
        if self.axes in _CONVOLUTIONS:
            return _CONVOLUTIONS[self.axes](
                x, weights, bias, win.stride, win.pad, win.dilation, self.group
            )
        padding = [pad for size in reversed(win.pad) for pad in (size, size)]
        padded = functional.pad(x, padding)
        sizes = win.positions(tuple(x.shape[2:]))
        total: Tensor | None = None
        for at, taken in _places(win, sizes):
            part = _times(padded[(*_BOTH, *taken)], _kernel_at(weights, at), self.group)
            total = part if total is None else total + part
        return _with_bias(total, bias)


class Deconvolution(Convolution):
    """The gradient of a convolution as a layer."""

    def slide(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        win = self.window
        if self.axes in _TRANSPOSED:
            return _TRANSPOSED[self.axes](
                channels_last(x), weights, bias, win.stride, win.pad, 0, self.group, win.dilation
            )
        spatial = tuple(x.shape[2:])
        sizes = [
            stride * (size - 1) + extent
            for size, stride, extent in zip(spatial, win.stride, win.extents, strict=True)
        ]
        outputs = self.place.settings.num_output
        whole = x.new_zeros((x.shape[0], outputs, *sizes))
        for at, taken in _places(win, spatial):
            kernel = _kernel_at(weights, at)  # (inputs, outputs of a group)
            grouped = kernel.reshape(self.group, -1, kernel.shape[1]).transpose(1, 2)
            part = _times(x, grouped.reshape(-1, grouped.shape[2]), self.group)
            spread = torch.zeros_like(whole)
            spread[(*_BOTH, *taken)] = part
            whole = whole + spread
        ends = [slice(pad, size - pad) for pad, size in zip(win.pad, sizes, strict=True)]
        return _with_bias(whole[(*_BOTH, *ends)], bias)


def long_enough(x: Tensor, win: Window) -> Tensor:
    """The input with zeros at its ends where the kernel would stick out.

    Caffe accepts a kernel that is larger than the padded input by less than a stride.
    """
    missing = [
        max(0, extent - size - 2 * pad)
        for size, extent, pad in zip(x.shape[2:], win.extents, win.pad, strict=True)
    ]
    if not any(missing):
        return x
    return functional.pad(x, [end for size in reversed(missing) for end in (0, size)])


def _places(
    win: Window, sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each place of a kernel, and what of the padded input lies under it at all positions."""
    for place in product(*(range(size) for size in win.kernel)):
        taken = tuple(
            slice(at * hole, at * hole + stride * (size - 1) + 1, stride)
            for at, hole, stride, size in zip(place, win.dilation, win.stride, sizes, strict=True)
        )
        yield place, taken


def _kernel_at(weights: Tensor, place: tuple[int, ...]) -> Tensor:
    for at in place:
        weights = weights.select(2, at)
    return weights


def _times(x: Tensor, weights: Tensor, group: int) -> Tensor:
    """(N, C, ...) times (outputs, C / group), group by group."""
    parts = [
        torch.einsum("nc...,oc->no...", part, kernel)
        for part, kernel in zip(x.chunk(group, 1), weights.chunk(group, 0), strict=True)
    ]
    return torch.cat(parts, 1)


def _with_bias(y: Tensor | None, bias: Tensor | None) -> Tensor:
    if y is None:
        raise ValueError("a kernel has at least one place")
    return y if bias is None else y + bias.view(-1, *(1,) * (y.dim() - 2))
