"""SmoothL1Loss and SmoothL1LossOHEM: the loss of boxes.

Source: rbgirshick/caffe-fast-rcnn (faster-rcnn): smooth_L1_loss_layer.cpp, .cu, with 2 or 4 bottoms
and a vector of ones; (fast-rcnn) and weiliu89/caffe (ssd): the same files, with 2 or 3 bottoms.
Both divide by the size of the first axis. daijifeng001/caffe-rfcn and the forks that call it
SmoothL1LossOHEM can also give a loss for each region, and divide as loss_param says. The R-CNN
family has no CPU code for it.
"""

from __future__ import annotations

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Shape,
    Site,
    all_but_first,
    count,
    four_axes,
)
from caffe_batch.layers.labels import Loss, LossSettings
from caffe_batch.layers.sides import bottom, own, sides, top


class SmoothL1Loss(Loss):
    """SSD's and Fast R-CNN's: predictions, targets, perhaps weights."""

    type = "SmoothL1Loss"
    other_messages = ("smooth_l1_loss_param",)
    bottoms = (2, 3)
    forced_bottoms = ()
    forks: tuple[str, ...] = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: smooth_L1_loss_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        check_boxes(site)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=all_but_first(site), divisor=site.bottoms[0][0])

    def memory(self, site: Site, mode: Mode) -> Memory:
        return _memory(site, mode, ("diff_", "errors_"))


class SmoothL1LossOHEM(SmoothL1Loss):
    """R-FCN's: its second top is the loss of each region. It needs a loss_weight too."""

    is_loss = False
    type = "SmoothL1LossOHEM"
    settings = LossSettings
    tops = (1, 2)
    forks = ("rcnn",)
    follows = "daijifeng001/caffe-rfcn: smooth_L1_loss_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        check_boxes(site)
        rows, _, height, width = four_axes(site.bottoms[0])
        return ((), (rows, 1, height, width))[: site.tops]

    def coupling(self, site: Site) -> Coupling:
        s: LossSettings = site.settings
        rows, _, height, width = four_axes(site.bottoms[0])
        mode = s.normalization
        if mode is None and s.normalize is not None:
            mode = "VALID" if s.normalize else "BATCH_SIZE"
        divisor = {"NONE": 1, "PRE_FIXED": 1, "BATCH_SIZE": rows}.get(
            mode or "VALID", rows * height * width
        )
        return Coupling(joint=all_but_first(site), divisor=max(1, divisor))

    def memory(self, site: Site, mode: Mode) -> Memory:
        return _memory(site, mode, ("diff_", "errors_"))


class WeightedSmoothL1Loss(SmoothL1LossOHEM):
    """Faster R-CNN's: predictions, targets, perhaps weights inside and outside the loss.

    Without a written loss_weight it is no loss: its LayerSetUp leaves out what gives others 1. With
    three bottoms, or a second top, it is R-FCN's layer of that name.
    """

    type = "SmoothL1Loss"
    bottoms = (2, 4)
    follows = "rbgirshick/caffe-fast-rcnn, daijifeng001/caffe-rfcn: smooth_L1_loss_layer.cpp, .cu"

    def coupling(self, site: Site) -> Coupling:
        if _is_rfcns(site):
            return super().coupling(site)
        return Coupling(joint=all_but_first(site), divisor=site.bottoms[0][0])

    def memory(self, site: Site, mode: Mode) -> Memory:
        ones = () if _is_rfcns(site) else ("ones_",)
        return _memory(site, mode, ("diff_", "errors_", *ones))


def _is_rfcns(site: Site) -> bool:
    return len(site.bottoms) == 3 or site.tops == 2


def check_boxes(site: Site) -> None:
    """Checks that all bottoms have one shape.

    Raises:
        ShapeError: They haven't.
    """
    first = four_axes(site.bottoms[0])
    for number, shape in enumerate(site.bottoms[1:], 1):
        if four_axes(shape) != first:
            raise ShapeError(
                f"bottom 0 {site.bottoms[0]} and bottom {number} {shape} must have the same shape"
            )


def _memory(site: Site, mode: Mode, names: tuple[str, ...]) -> Memory:
    buffers = tuple([Buffer(name, count(site.bottoms[0])) for name in names])
    forward = [*sides(bottom, len(site.bottoms), "data"), *[each.data for each in buffers]]
    if site.tops == 2:
        forward.append(top(1).data)
    # It asks for the gradients of predictions and targets; whether weights need one doesn't matter.
    backward = [bottom(number).diff for number in range(2) if site.bottom_need[number]]
    if mode == "cpu":
        forward.append(top(0).data)
        backward += [top(0).diff] if backward else []
    ones = (own("ones_").data,) if mode == "cpu" and "ones_" in names else ()
    return Memory(buffers=buffers, build=ones, forward=tuple(forward), backward=tuple(backward))
