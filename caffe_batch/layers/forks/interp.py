"""Interp: bilinear scaling of feature maps.

Source: cdmh/deeplab-public-ver2, hszhao/PSPNet: interp_layer.cpp, interp.cu. The padding may only
be negative: a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, four_axes
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class InterpSettings:
    height: int | None = None
    width: int | None = None
    zoom_factor: int | None = None
    shrink_factor: int | None = None
    pad_beg: int = 0
    pad_end: int = 0


class Interp(Rule):
    type = "Interp"
    message = "interp_param"
    settings = InterpSettings
    forks = ("deeplab", "pspnet")
    follows = "hszhao/PSPNet: interp_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InterpSettings = site.settings
        if s.pad_beg > 0 or s.pad_end > 0:
            raise ShapeError("pad_beg and pad_end can only crop: they must not be above 0")
        samples, channels, *size = four_axes(site.bottoms[0])
        height, width = [_scaled(s, number + s.pad_beg + s.pad_end) for number in size]
        if _takes_size(s):
            height, width = s.height or 0, s.width or 0
        if height < 1 or width < 1:
            raise ShapeError(f"the size would be {height} x {width}")
        return ((samples, channels, height, width),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(2, 3), linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            forward=(bottom(0).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


def _takes_size(s: InterpSettings) -> bool:
    """Whether height and width count: a single factor goes first, both factors last."""
    single = (s.shrink_factor is None) != (s.zoom_factor is None)
    return not single and s.height is not None and s.width is not None


def _scaled(s: InterpSettings, size: int) -> int:
    """A size after shrinking and zooming.

    Raises:
        ShapeError: Nothing says how large the top is, or nothing is left of the input.
    """
    if size < 1:
        raise ShapeError("the crop leaves nothing of the input")
    if (s.shrink_factor, s.zoom_factor) == (None, None) and not _takes_size(s):
        raise ShapeError("interp_param needs zoom_factor, shrink_factor, or height and width")
    for name, factor in (("shrink_factor", s.shrink_factor), ("zoom_factor", s.zoom_factor)):
        if factor is not None and factor < 1:
            raise ShapeError(f"{name} must be at least 1, not {factor}")
    size = (size - 1) // (s.shrink_factor or 1) + 1
    return size + (size - 1) * ((s.zoom_factor or 1) - 1)
