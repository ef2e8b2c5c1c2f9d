"""SegAccuracy: scores of a segmentation, on the host.

Source: cdmh/deeplab-public-ver2, hszhao/PSPNet, seg_accuracy_layer.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    four_axes,
    refuse_backward,
)
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class SegAccuracySettings:
    reset: bool = True


class SegAccuracy(Rule):
    """Accuracy of the pixels, mean recall, mean overlap; with reset: false of all passes so far."""

    type = "SegAccuracy"
    is_score = True
    message = "seg_accuracy_param"
    settings = SegAccuracySettings
    bottoms = (2, 2)
    forks = ("deeplab", "pspnet")
    follows = "cdmh/deeplab-public-ver2: seg_accuracy_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        predictions, labels = [four_axes(shape) for shape in site.bottoms]
        if labels != (predictions[0], 1, *predictions[2:]):
            raise ShapeError(f"the predictions {predictions} need one label a pixel, not {labels}")
        return ((1, 1, 1, 3),)

    def keeps_state(self, settings: SegAccuracySettings) -> bool:
        return not settings.reset

    def coupling(self, site: Site) -> Coupling:
        return Coupling(
            joint=(1,),
            divisor=count(site.bottoms[1]),
            by_labels=(0,),
            carries_state=self.keeps_state(site.settings),
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        if mode == "gpu":
            return Memory()
        return Memory(forward=(bottom(0).data, bottom(1).data, top(0).data))
