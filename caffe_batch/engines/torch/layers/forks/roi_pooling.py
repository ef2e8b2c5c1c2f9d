"""ROIPooling and PSROIPooling: the same number of cells for each region.

A region is a row of 5 numbers: the sample it belongs to, and the corners of its box in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.errors import InputError


class _Cells(NamedTuple):
    """Where the cells of all regions begin and end along one axis: (regions, cells), in pixels."""

    begin: Tensor
    end: Tensor

    def covers(self, size: int) -> Tensor:
        """Which pixels are in which cell: (regions, cells, size)."""
        at = torch.arange(size, device=self.begin.device)
        return (at >= self.begin[..., None]) & (at < self.end[..., None])


def _cells(start: Tensor, extent: Tensor, number: int, size: int) -> _Cells:
    """Equal shares of the regions along one axis, widened to whole pixels.

    Args:
        start: Where each region begins.
        extent: How long it is.
        number: How many cells it has.
        size: The size of the map; what is outside is left out.
    """
    at = torch.arange(number, device=start.device, dtype=start.dtype)
    share = extent / number
    begin = (at * share[:, None] + start[:, None]).floor()
    end = ((at + 1) * share[:, None] + start[:, None]).ceil()
    return _Cells(begin.clamp(0, size).long(), end.clamp(0, size).long())


def _samples(place: Place, regions: Tensor, number: int) -> Tensor:
    """The sample of each region.

    Raises:
        InputError: There is none of that number.
    """
    of = regions[:, 0].long()
    if of.numel() and not 0 <= int(of.min()) <= int(of.max()) < number:
        raise InputError(
            f"layer {place.name!r}: a region belongs to sample {int(of.max())}, "
            f"and the batch has {number}"
        )
    return of


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero, as C does."""
    return torch.where(x < 0, (x - 0.5).ceil(), (x + 0.5).floor())


class ROIPooling(TorchLayer):
    """The largest value of each cell; of equal ones the first gets the gradient.

    Caffe has no CPU code for its Backward.
    """

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, regions = bottoms[0], bottoms[1].detach().reshape(-1, 5)
        s = self.place.message.roi_pooling_param
        samples, channels, height, width = x.shape
        of = _samples(self.place, regions, samples)
        corners = _round(regions[:, 1:] * s.spatial_scale)
        extents = (corners[:, 2:] - corners[:, :2] + 1).clamp(min=1)
        # Caffe's order: cells of a region that starts at 0, then moved to where it is.
        zero = torch.zeros_like(extents[:, 0])
        far = 2 * (height + width) + int(extents.max()) if extents.numel() else 0
        rows = _moved(_cells(zero, extents[:, 1], s.pooled_h, far), corners[:, 1], height)
        columns = _moved(_cells(zero, extents[:, 0], s.pooled_w, far), corners[:, 0], width)
        shape = (len(regions), channels, s.pooled_h, s.pooled_w)
        if not len(regions):
            return (x.new_zeros(shape),)
        with torch.no_grad():
            places = torch.stack([
                _first_maxima(x[int(of[r])], rows, columns, r) for r in range(len(regions))
            ])  # fmt: skip
            empty = (rows.end <= rows.begin)[:, None, :, None]
            empty = (empty | (columns.end <= columns.begin)[:, None, None, :]).expand(shape)
            plane = of[:, None] * channels + torch.arange(channels, device=x.device)
            places = places + (plane * height * width)[..., None, None]
        top = x.flatten()[places.where(~empty, 0)]
        return (torch.where(empty, 0, top),)


def _moved(cells: _Cells, start: Tensor, size: int) -> _Cells:
    by = start[:, None].long()
    return _Cells((cells.begin + by).clamp(0, size), (cells.end + by).clamp(0, size))


def _first_maxima(x: Tensor, rows: _Cells, columns: _Cells, region: int) -> Tensor:
    """Where the first of the largest values of each cell is in its plane (C, rows, columns).

    Along the columns first, then along the rows: so the first one is that of the upmost row.
    """
    _, height, width = x.shape
    best, at = [], []
    bounds = zip(columns.begin[region].tolist(), columns.end[region].tolist(), strict=True)
    for begin, end in bounds:
        value, place = _largest(x[:, :, begin:end], 2)
        best.append(value)
        at.append(place + begin)
    values, lines = torch.stack(best, -1), torch.stack(at, -1)  # (C, H, columns)
    found = []
    for begin, end in zip(rows.begin[region].tolist(), rows.end[region].tolist(), strict=True):
        _, row = _largest(values[:, begin:end], 1)
        row = (row + begin).clamp(max=height - 1)
        column = lines.gather(1, row[:, None])[:, 0]
        found.append(row * width + column.clamp(max=width - 1))
    return torch.stack(found, 1)


def _largest(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The largest values along an axis, and the first place of each; anything if it is empty."""
    if x.shape[axis]:
        value, place = x.max(axis)
        return value, place
    shape = [size for number, size in enumerate(x.shape) if number != axis]
    return x.new_full(shape, -torch.inf), torch.zeros(shape, dtype=torch.long, device=x.device)


class PSROIPooling(TorchLayer):
    """The mean of each cell, each from a channel of its own. Caffe has no CPU code for it."""

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        x, regions = bottoms[0], bottoms[1].detach().reshape(-1, 5)
        s = self.place.message.psroi_pooling_param
        samples, _, height, width = x.shape
        of = _samples(self.place, regions, samples)
        begin = _round(regions[:, 1:3]) * s.spatial_scale
        end = (_round(regions[:, 3:5]) + 1) * s.spatial_scale
        extents = (end - begin).clamp(min=0.1)
        size = s.group_size
        rows = _cells(begin[:, 1], extents[:, 1], size, height).covers(height).to(x.dtype)
        columns = _cells(begin[:, 0], extents[:, 0], size, width).covers(width).to(x.dtype)
        maps = x.view(samples, s.output_dim, size, size, height, width)
        area = rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
        tops = x.new_zeros((len(regions), s.output_dim, size, size))
        for sample in sorted(set(of.tolist())):
            mine = (of == sample).nonzero()[:, 0]
            sums = torch.einsum("cijhw,rih,rjw->rcij", maps[sample], rows[mine], columns[mine])
            tops = tops.index_copy(0, mine, sums / area[mine].clamp(min=1))
        return (tops,)
