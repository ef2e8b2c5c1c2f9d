"""PriorBox: the boxes that SSD's predictions start from.

Source: weiliu89/caffe (ssd), prior_box_layer.cpp.
They depend on the sizes of the feature map and the image only. It has no GPU code.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, four_axes
from caffe_batch.layers.sides import top

#: Aspect ratios that differ by less are the same.
_SAME_RATIO = 1e-6


@dataclass(frozen=True, slots=True)
class PriorBoxSettings:
    min_size: tuple[float, ...] = ()
    max_size: tuple[float, ...] = ()
    aspect_ratio: tuple[float, ...] = ()
    flip: bool = True
    img_size: int | None = None
    img_h: int | None = None
    img_w: int | None = None


class PriorBox(Rule):
    type = "PriorBox"
    message = "prior_box_param"
    settings = PriorBoxSettings
    bottoms = (1, 2)
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: prior_box_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: PriorBoxSettings = site.settings
        _, _, height, width = four_axes(site.bottoms[0])
        boxes = priors(s)
        sized = s.img_size is not None or (s.img_h is not None and s.img_w is not None)
        if len(site.bottoms) == 1 and not sized:
            raise ShapeError(
                "the size of the image isn't known",
                hint="Give the image as a second bottom, or img_size.",
            )
        return ((1, 2, height * width * boxes * 4),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(constant=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(forward=(top(0).data,) if mode == "cpu" else ())


def priors(s: PriorBoxSettings) -> int:
    """How many boxes each position has.

    Raises:
        ShapeError: The sizes are missing, or contradict each other.
    """
    if not s.min_size or min(s.min_size) <= 0:
        raise ShapeError("prior_box_param needs min_size, above 0")
    if s.max_size and len(s.max_size) != len(s.min_size):
        raise ShapeError(f"{len(s.max_size)} max_size for {len(s.min_size)} min_size")
    if any(most <= least for least, most in zip(s.min_size, s.max_size, strict=False)):
        raise ShapeError("each max_size must be larger than its min_size")
    ratios = [1.0]
    for ratio in s.aspect_ratio:
        if all(abs(ratio - known) >= _SAME_RATIO for known in ratios):
            ratios += [ratio, 1 / ratio] if s.flip else [ratio]
    return len(ratios) * len(s.min_size) + len(s.max_size)
