"""Accuracy: the share of samples whose label is among the top_k. Source: accuracy_layer.cpp, .cu.

On the GPU it counts in the diffs of its bottoms, in every phase; with a second top (accuracy by
class) it uses a buffer of the predictions' size instead of the labels' diff. The results are
written on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Labels,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axis_index,
    count,
    refuse_gradient,
)
from caffe_batch.layers.labels import check_labels
from caffe_batch.layers.sides import bottom, own, top


@dataclass(frozen=True, slots=True)
class AccuracySettings:
    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None


class Accuracy(Rule):
    type = "Accuracy"
    message = "accuracy_param"
    settings = AccuracySettings
    bottoms = (2, 2)
    tops = (1, 2)
    is_score = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: AccuracySettings = site.settings
        predictions, labels = site.bottoms
        check_labels(predictions, labels, s.axis)
        if count(predictions) == 0:
            raise ShapeError(f"no predictions to score: {predictions}")
        classes = count(predictions) // count(labels)
        if s.top_k > classes:
            raise ShapeError(f"top_k {s.top_k} is more than the {classes} classes")
        return ((), (predictions[axis_index(s.axis, predictions)],))[: site.tops]

    def coupling(self, site: Site) -> Coupling:
        s: AccuracySettings = site.settings
        predictions, labels = site.bottoms
        return Coupling(
            joint=(axis_index(s.axis, predictions),),
            divisor=count(labels),
            by_labels=(0, 1) if s.ignore_label is not None else (1,),
        )

    def labels(self, site: Site) -> Labels | None:
        """The scores by class are counted at the index that the label gives."""
        s: AccuracySettings = site.settings
        predictions = site.bottoms[0]
        classes = predictions[axis_index(s.axis, predictions)]
        return Labels(1, classes, s.ignore_label, writes=site.tops == 2)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the labels")
        predictions = site.bottoms[0]
        forward = [bottom(0).data, bottom(1).data]
        by_class = site.tops == 2
        if mode == "gpu":
            forward += [bottom(0).diff, own("nums_buffer_").data if by_class else bottom(1).diff]
            buffer = count(predictions)
        else:
            refuse_gradient(site, 0, "the predictions")
            forward += [top(0).data, *((top(1).data, own("nums_buffer_").data) if by_class else ())]
            buffer = predictions[axis_index(site.settings.axis, predictions)]
        return Memory(
            buffers=(Buffer("nums_buffer_", buffer),) if by_class else (), forward=tuple(forward)
        )
