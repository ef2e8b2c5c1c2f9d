"""DetectionOutput and DetectionEvaluate: SSD's detections and their score, without gradients.

Source: weiliu89/caffe, detection_output_layer.cpp, .cu, detection_evaluate_layer.cpp. The number of
detections is known only after a pass; the top has the shape that it is built with.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    all_but_first,
    count,
    four_axes,
    refuse_backward,
)
from caffe_batch.layers.forks.multibox_loss import check_predictions, prior_count
from caffe_batch.layers.sides import bottom, own, top

#: Numbers of a detection: image, class, confidence and box; and of a true box.
DETECTION, BOX = 7, 8


@dataclass(frozen=True, slots=True)
class DetectionOutputSettings:
    num_classes: int | None = None
    share_location: bool = True


class DetectionOutput(Rule):
    """On the GPU it decodes all boxes; the rest is done on the host."""

    type = "DetectionOutput"
    message = "detection_output_param"
    settings = DetectionOutputSettings
    other_messages = ("transform_param",)
    bottoms = (3, 5)
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: detection_output_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: DetectionOutputSettings = site.settings
        if not s.num_classes:
            raise ShapeError("detection_output_param needs num_classes, at least 1")
        located, classified, priors = site.bottoms[:3]
        boxes = prior_count(priors)
        check_predictions(s.share_location, s.num_classes, located, classified, boxes)
        return ((1, 1, 1, DETECTION),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=all_but_first(site))

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        s: DetectionOutputSettings = site.settings
        inputs = (bottom(0).data, bottom(1).data, bottom(2).data)
        buffers = (
            Buffer("bbox_preds_", count(site.bottoms[0])),
            Buffer("bbox_permute_", count(site.bottoms[0])),
            Buffer("conf_permute_", count(site.bottoms[1])),
        )
        if mode == "cpu":
            arms = tuple([bottom(i).data for i in range(3, len(site.bottoms))])
            return Memory(buffers=buffers, forward=(*inputs, *arms, top(0).data))
        permuted = () if s.share_location else (own("bbox_permute_").data,)
        return Memory(
            buffers=buffers,
            forward=(*inputs, own("bbox_preds_").data, own("conf_permute_").data, *permuted),
        )


@dataclass(frozen=True, slots=True)
class DetectionEvaluateSettings:
    num_classes: int | None = None
    background_label_id: int = 0


class DetectionEvaluate(Rule):
    """Reads the detections as soon as it is built, when there is one, of zeros."""

    type = "DetectionEvaluate"
    is_score = True
    message = "detection_evaluate_param"
    settings = DetectionEvaluateSettings
    bottoms = (2, 2)
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: detection_evaluate_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: DetectionEvaluateSettings = site.settings
        if not s.num_classes:
            raise ShapeError("detection_evaluate_param needs num_classes, at least 1")
        detections, boxes = [four_axes(shape) for shape in site.bottoms]
        for what, shape, numbers in (
            ("detections", detections, DETECTION),
            ("true boxes", boxes, BOX),
        ):
            if (*shape[:2], shape[3]) != (1, 1, numbers):
                raise ShapeError(
                    f"the {what} have the shape (1, 1, number, {numbers}), not {shape}"
                )
        scored = s.num_classes - 1  # the background's number is unsigned, and never -1
        return ((1, 1, scored + detections[2], 5),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=tuple(range(len(site.bottoms[0]))))

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        if mode == "gpu":
            return Memory()
        return Memory(
            build=(bottom(0).data,), forward=(bottom(0).data, bottom(1).data, top(0).data)
        )
