"""Pooling and SPP, a pyramid of poolings.

Caffe's windows: the last one may reach beyond the edge; with padding, one that would lie in the
padding only is left out. An average divides by the part of the window inside the padded input,
which ends at H + pad. That is torch's ceil_mode with count_include_pad.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.layers.base import Shape
from caffe_batch.layers.pooling import (
    PoolingSettings,
    Windows,
    level_settings,
    pooled_shape,
    pooling_windows,
)


class Pooling(TorchLayer):
    """The second top of MAX pooling holds the places of the maxima in their planes."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.drawn = place.rule.draws(place.settings, place.site.phase)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, site = bottoms[0], self.place.site
        if site.tops == 1:
            return (pool(x, self.place.settings, train=site.phase == "TRAIN"),)
        windows = pooling_windows(self.place.settings, tuple(x.shape))
        top, places = _largest(x, windows, pooled_shape(self.place.settings, tuple(x.shape)))
        return top, places.to(x.dtype)


class SPP(TorchLayer):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.drawn = place.settings.pool == "STOCHASTIC" and place.site.phase == "TRAIN"

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, s = bottoms[0], self.place.settings
        train = self.place.site.phase == "TRAIN"
        levels = [
            pool(x, level_settings(s, level, tuple(x.shape)), train=train)
            for level in range(s.pyramid_height)
        ]
        if len(levels) == 1:
            return levels
        return (torch.cat([level.flatten(1) for level in levels], 1),)


def pool(x: Tensor, s: PoolingSettings, *, train: bool) -> Tensor:
    """Pools an input (N, C, H, W)."""
    shape = tuple(x.shape)
    windows, pooled = pooling_windows(s, shape), pooled_shape(s, shape)
    if s.pool == "MAX":
        if not _is_torchs(windows, pooled, shape):
            return _largest(x, windows, pooled)[0]
        return functional.max_pool2d(
            x, windows.kernel, windows.stride, windows.pad, ceil_mode=windows.up
        )
    if s.pool == "AVE":
        if not _is_torchs(windows, pooled, shape):
            return _average(x, windows, pooled)
        return functional.avg_pool2d(
            x, windows.kernel, windows.stride, windows.pad, ceil_mode=windows.up
        )
    return _drawn(x, windows, pooled) if train else _expected(x, windows, pooled)


def _is_torchs(windows: Windows, pooled: Shape, shape: Shape) -> bool:
    """Whether torch accepts this padding and makes as many windows."""
    for axis in range(2):
        kernel, pad, stride = windows.kernel[axis], windows.pad[axis], windows.stride[axis]
        room, size = shape[2 + axis] + 2 * pad - kernel, shape[2 + axis]
        made = (-(-room // stride) if windows.up else room // stride) + 1
        if windows.up and (made - 1) * stride >= size + pad:
            made -= 1
        if 2 * pad > kernel or made != pooled[2 + axis]:
            return False
    return True


def _padded(x: Tensor, windows: Windows, pooled: Shape, value: float) -> Tensor:
    """The input with all that the windows reach, so that each of them is whole."""
    beyond = []
    for axis in (1, 0):
        reach = (pooled[2 + axis] - 1) * windows.stride[axis] + windows.kernel[axis]
        beyond += [windows.pad[axis], reach - windows.pad[axis] - x.shape[2 + axis]]
    return functional.pad(x, beyond, value=value)


def _largest(x: Tensor, windows: Windows, pooled: Shape) -> tuple[Tensor, Tensor]:
    """The maxima, and where they are in the plane of their channel."""
    padded = _padded(x, windows, pooled, -torch.inf)
    top, places = functional.max_pool2d(padded, windows.kernel, windows.stride, return_indices=True)
    row = places.div(padded.shape[3], rounding_mode="floor") - windows.pad[0]
    column = places % padded.shape[3] - windows.pad[1]
    return top, row * x.shape[3] + column


def _average(x: Tensor, windows: Windows, pooled: Shape) -> Tensor:
    padded = _padded(x, windows, pooled, 0)
    sums = functional.avg_pool2d(padded, windows.kernel, windows.stride, divisor_override=1)
    sizes = []
    for axis in range(2):
        stride, pad, size = windows.stride[axis], windows.pad[axis], x.shape[2 + axis]
        starts = torch.arange(pooled[2 + axis], device=x.device) * stride - pad
        sizes.append((starts + windows.kernel[axis]).clamp(max=size + pad) - starts)
    return sums / (sizes[0][:, None] * sizes[1][None, :]).to(x.dtype)


def _patches(x: Tensor, windows: Windows, pooled: Shape) -> Tensor:
    """(N, C, places of a window, windows), zero beyond the edge."""
    padded = _padded(x, windows, pooled, 0)
    unfolded = functional.unfold(padded, windows.kernel, stride=windows.stride)
    return unfolded.view(x.shape[0], x.shape[1], -1, unfolded.shape[2])


def _drawn(x: Tensor, windows: Windows, pooled: Shape) -> Tensor:
    """One value of each window, drawn in proportion to it (pooling_layer.cu; GPU only in Caffe)."""
    patches = _patches(x, windows, pooled)
    sums = patches.detach().cumsum(2)
    aim = torch.rand_like(sums[:, :, :1]) * sums[:, :, -1:]
    reached = sums >= aim
    order = torch.arange(reached.shape[2], 0, -1, device=x.device).view(1, 1, -1, 1)
    first = (reached * order).argmax(2, keepdim=True)
    return patches.gather(2, first).view(*x.shape[:2], *pooled[2:])


def _expected(x: Tensor, windows: Windows, pooled: Shape) -> Tensor:
    """What is drawn in TRAIN, on average."""
    patches = _patches(x, windows, pooled)
    sums = patches.sum(2)
    average = torch.where(sums > 0, patches.square().sum(2) / sums, 0)
    return average.view(*x.shape[:2], *pooled[2:])
