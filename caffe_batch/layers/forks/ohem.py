"""BoxAnnotatorOHEM and SoftmaxWithLossOHEM: R-FCN's online mining of hard examples.

Source: daijifeng001/caffe-rfcn, box_annotator_ohem_layer.cpp, .cu; softmax_loss_layer.cpp, .cu,
which other forks call SoftmaxWithLossOHEM. Neither has CPU code; the annotator runs on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, count, four_axes
from caffe_batch.layers.forks.roi_pooling import REGION
from caffe_batch.layers.labels import check_batch, check_labels
from caffe_batch.layers.sides import bottom, own, sides, top
from caffe_batch.layers.softmax_loss import SoftmaxWithLoss


@dataclass(frozen=True, slots=True)
class BoxAnnotatorOHEMSettings:
    roi_per_img: int = 0


class BoxAnnotatorOHEM(Rule):
    """Keeps the labels of the regions of each image that have the largest loss.

    Bottoms: regions (R, 5), losses (R), labels (R), weights of the boxes (R, 4C).
    """

    type = "BoxAnnotatorOHEM"
    message = "box_annotator_ohem_param"
    settings = BoxAnnotatorOHEMSettings
    bottoms = (4, 4)
    tops = (2, 2)
    forks = ("rcnn",)
    follows = "daijifeng001/caffe-rfcn: box_annotator_ohem_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: BoxAnnotatorOHEMSettings = site.settings
        if s.roi_per_img == 0:
            raise ShapeError("box_annotator_ohem_param needs roi_per_img, at least 1")
        regions, losses, labels, weights = [four_axes(shape) for shape in site.bottoms]
        rows, numbers, height, width = regions
        if numbers != REGION:
            raise ShapeError(f"the regions are rows of {REGION} numbers, not {site.bottoms[0]}")
        for what, shape in (("losses", losses), ("labels", labels)):
            if shape != (rows, 1, height, width):
                raise ShapeError(f"{rows} regions need as many {what}, not {shape}")
        if (weights[0], *weights[2:]) != (rows, height, width):
            raise ShapeError(f"{rows} regions need as many weights of boxes, not {weights}")
        return (rows, 1, height, width), weights

    def coupling(self, site: Site) -> Coupling:
        """Which regions count depends on the losses of the others."""
        return Coupling(joint=tuple(range(len(site.bottoms[0]))))

    def memory(self, site: Site, mode: Mode) -> Memory:
        if mode == "gpu":
            return Memory()
        return Memory(forward=(*sides(bottom, 4, "data"), *sides(top, 2, "data")))


class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """Its second top is the probabilities, its third one the loss of each label."""

    type = "SoftmaxWithLossOHEM"
    tops = (1, 3)
    forks = ("rcnn",)
    follows = "daijifeng001/caffe-rfcn: softmax_loss_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        data, labels = site.bottoms
        check_batch(data, labels)
        check_labels(data, labels, site.settings.axis)
        if count(data) == 0:
            raise ShapeError(f"no predictions: {data}")
        return ((), data, labels)[: site.tops]

    def memory(self, site: Site, mode: Mode) -> Memory:
        memory = super().memory(site, mode)
        probabilities = ((top(1).data, own("prob_").data),) if site.tops > 1 else ()
        each = (top(2).data,) if site.tops > 2 else ()
        return replace(memory, forward=(*memory.forward, *each), shares=probabilities)


class MiningSoftmaxLoss(SoftmaxWithLossOHEM):
    """The same under Caffe's own name, as in R-FCN; with fewer tops it is Caffe's."""

    type = "SoftmaxWithLoss"
