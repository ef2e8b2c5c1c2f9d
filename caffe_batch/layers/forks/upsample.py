"""Upsample: the places that a MAX pooling took its values from, filled again.

Source: alexgkendall/caffe-segnet, TimoSaemann/caffe-enet: upsample_layer.cpp, .cu. Its mask is the
second top of that pooling. Without one, every value is repeated: eric612/MobileNet-YOLO,
upsample_layer.cpp, .cu.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, not_empty
from caffe_batch.layers.sides import bottom, sides, top


@dataclass(frozen=True, slots=True)
class UpsampleSettings:
    scale: int | None = None
    scale_h: int | None = None
    scale_w: int | None = None
    pad_out_h: bool = False
    pad_out_w: bool = False
    upsample_h: int | None = None
    upsample_w: int | None = None


class Upsample(Rule):
    type = "Upsample"
    message = "upsample_param"
    settings = UpsampleSettings
    bottoms = (1, 2)
    forks = ("segnet",)
    follows = "alexgkendall/caffe-segnet: upsample_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: UpsampleSettings = site.settings
        data, mask = site.bottoms[0], site.bottoms[-1]
        if len(site.bottoms) == 1 and len(data) > 1:  # YOLO's
            scale = 1 if s.scale is None else s.scale
            return (not_empty((*data[:-2], *[size * scale for size in data[-2:]])),)
        if len(data) != 4 or data != mask:
            raise ShapeError(
                f"the input {data} and its mask {mask} must have one shape of 4 axes",
                hint="The mask is the second top of a MAX pooling.",
            )
        if s.upsample_h is not None and s.upsample_w is not None:
            if min(s.upsample_h, s.upsample_w) < 2:
                raise ShapeError("upsample_h and upsample_w must be at least 2")
            return ((*data[:2], s.upsample_h, s.upsample_w),)
        return ((*data[:2], *_scaled(s, data[2:])),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(2, 3))

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            forward=(*sides(bottom, len(site.bottoms), "data"), top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


def _scaled(s: UpsampleSettings, size: Shape) -> Shape:
    """Height and width times the scale, or one less.

    Raises:
        ShapeError: The scales contradict each other.
    """
    twice = s.scale is not None and s.scale_h is not None
    if twice or (s.scale_h is None) != (s.scale_w is None):
        raise ShapeError("give upsample_h and upsample_w, or scale, or scale_h and scale_w")
    both = 2 if s.scale is None else s.scale
    scales = (both if s.scale_h is None else s.scale_h, both if s.scale_w is None else s.scale_w)
    if min(scales) < 2:
        raise ShapeError(f"a scale must be at least 2, not {min(scales)}")
    for name, scale, padded in (
        ("pad_out_h", scales[0], s.pad_out_h),
        ("pad_out_w", scales[1], s.pad_out_w),
    ):
        if padded and scale != 2:
            raise ShapeError(f"{name} needs a scale of 2, not {scale}")
    return size[0] * scales[0] - s.pad_out_h, size[1] * scales[1] - s.pad_out_w
