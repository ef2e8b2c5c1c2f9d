"""PriorBox: the boxes that SSD's predictions start from, and their variances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer

#: Ratios that differ by less are the same.
_SAME_RATIO = 1e-6


class PriorBox(TorchLayer):
    """Corners as shares of the image: for each position, size and ratio one box."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._made: dict[tuple[int, ...], Tensor] = {}

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.place.message.prior_box_param
        rows, columns = bottoms[0].shape[2:4]
        height, width = s.img_h or s.img_size, s.img_w or s.img_size
        if not (height and width):
            height, width = bottoms[1].shape[2:4]
        key = (rows, columns, height, width)
        if key not in self._made:
            like = bottoms[0]
            self._made[key] = self._boxes(*key).to(like.device, like.dtype)
        return (self._made[key],)

    def _boxes(self, rows: int, columns: int, height: int, width: int) -> Tensor:
        s = self.place.message.prior_box_param
        step_h = s.step_h or s.step or height / rows
        step_w = s.step_w or s.step or width / columns
        exact = torch.float64
        y = (torch.arange(rows, dtype=exact) + s.offset) * step_h
        x = (torch.arange(columns, dtype=exact) + s.offset) * step_w
        half = torch.tensor([(w / 2, h / 2) for w, h in self._sizes()], dtype=exact)
        centres = torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], -1)
        corners = torch.cat([centres[:, :, None] - half, centres[:, :, None] + half], -1)
        boxes = corners / torch.tensor([width, height] * 2)
        if s.clip:
            boxes = boxes.clamp(0, 1)
        variances = list(s.variance) or [0.1]
        spread = torch.tensor(variances if len(variances) == 4 else variances * 4)
        return torch.stack([boxes.flatten(), spread.expand_as(boxes).flatten()])[None].float()

    def _sizes(self) -> list[tuple[float, float]]:
        """Width and height of the boxes of one position, in pixels."""
        s = self.place.message.prior_box_param
        ratios = [1.0]
        for ratio in s.aspect_ratio:
            if all(abs(ratio - known) >= _SAME_RATIO for known in ratios):
                ratios += [ratio, 1 / ratio] if s.flip else [ratio]
        sizes: list[tuple[float, float]] = []
        for i, size in enumerate(map(int, s.min_size)):  # Caffe cuts fractions off
            sizes.append((size, size))
            if s.max_size:
                between = math.sqrt(size * int(s.max_size[i]))
                sizes.append((between, between))
            sizes += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios[1:]]
        return sizes
