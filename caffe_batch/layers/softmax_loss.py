"""SoftmaxWithLoss and InfogainLoss: a Softmax inside, and the loss of its probabilities.

Source: softmax_loss_layer.cpp, .cu; infogain_loss_layer.cpp, .hpp; loss_layer.cpp.

Both wrap a whole Softmax layer that has a loss weight of its own, so the diff of its output
``prob_`` holds that weight: Infogain's always 1, SoftmaxWithLoss's the one of the prototxt (1 if
none is written).

Contrary to the usual reading of the documentation, a SoftmaxWithLoss with two tops is always
refused: Caffe wants one loss weight per top, and the Softmax inside gets the same weights but has
a single top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Labels,
    Memory,
    Mode,
    Shape,
    Site,
    axis_index,
    count,
    not_empty,
    refuse_gradient,
    setting,
    without_buffers,
)
from caffe_batch.layers.labels import Loss, LossSettings, check_batch, check_labels, normalizer
from caffe_batch.layers.sides import bottom, own, top
from caffe_batch.layers.softmax import softmax_buffers


@dataclass(frozen=True, slots=True)
class SoftmaxWithLossSettings(LossSettings):
    engine: str = setting("DEFAULT", message="softmax_param")
    axis: int = setting(1, message="softmax_param")


class SoftmaxWithLoss(Loss):
    """On the GPU it sums in the diffs of bottom 0 and of ``prob_``, in every phase."""

    type = "SoftmaxWithLoss"
    scored_by = "Softmax"
    settings = SoftmaxWithLossSettings
    tops = (1, 2)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        data, labels = site.bottoms
        check_batch(data, labels)
        check_labels(data, labels, site.settings.axis)
        if site.tops == 2:
            raise ShapeError(
                "Caffe refuses a SoftmaxWithLoss with two tops",
                hint="To get the probabilities as well, add a Softmax layer beside it.",
            )
        not_empty((data[axis_index(site.settings.axis, data)],))
        if _weighted(site):
            not_empty(data)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return _coupling(site)

    def labels(self, site: Site) -> Labels | None:
        """Backward subtracts 1 at the label's index."""
        return _labels(site, writes=site.phase == "TRAIN" and site.backward)

    def chance_loss(self, site: Site) -> float | None:
        """ln(classes), as a mean over the labels that count."""
        data = site.bottoms[0]
        classes = data[axis_index(site.settings.axis, data)]
        coupling = _coupling(site)
        if coupling.divisor is None:
            return None
        share = 1.0 if coupling.by_labels else count(data) / classes / coupling.divisor
        return share * math.log(classes)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the labels")
        data = site.bottoms[0]
        buffers = (Buffer("prob_", count(data)), *softmax_buffers(data, site.settings.axis))
        forward = (bottom(0).data, bottom(1).data, own("prob_").data, own("scale_").data)
        need = site.bottom_need[0]
        if mode == "gpu":
            return Memory(
                buffers=buffers,
                forward=(*forward, bottom(0).diff, own("prob_").diff),
                # The kernel is passed the top's data, but doesn't read it.
                backward=(bottom(0).diff, top(0).data) if need else (),
            )
        return Memory(
            buffers=buffers,
            build=(own("sum_multiplier_").data, *((own("prob_").diff,) if _weighted(site) else ())),
            forward=(*forward, top(0).data),
            backward=(bottom(0).diff, top(0).diff) if need else (),
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        return _softmax_by_cudnn(site, memory)


def _coupling(site: Site) -> Coupling:
    """A mean over all labels, unless ``normalization`` says otherwise."""
    data = site.bottoms[0]
    axis = axis_index(site.settings.axis, data)
    divisor, by_labels = normalizer(
        site.settings, default="VALID", outer=count(data[:axis]), inner=count(data[axis + 1 :])
    )
    return Coupling(joint=(axis,), divisor=divisor, by_labels=(0,) if by_labels else ())


def _labels(site: Site, *, writes: bool) -> Labels:
    data, s = site.bottoms[0], site.settings
    return Labels(1, data[axis_index(s.axis, data)], s.ignore_label, writes)


def _softmax_by_cudnn(site: Site, memory: Memory) -> Memory:
    """The memory with cuDNN's Softmax inside, unless softmax_param says otherwise."""
    return memory if site.settings.engine == "CAFFE" else without_buffers(memory, "scale_")


def _weighted(site: Site) -> bool:
    """Whether the Softmax inside has a loss weight: the default 1, or what is written."""
    return not site.loss_weights or site.loss_weights[0] != 0


@dataclass(frozen=True, slots=True)
class InfogainLossSettings(LossSettings):
    engine: str = setting("DEFAULT", message="softmax_param")
    source: str | None = None
    axis: int = 1


class InfogainLoss(Loss):
    """Runs on the host except for the Softmax inside. Its matrix is K x K for K classes.

    The file of the matrix isn't read here, so its size isn't checked.
    """

    type = "InfogainLoss"
    scored_by = "Softmax"
    message = "infogain_loss_param"
    settings = InfogainLossSettings
    bottoms = (2, 3)
    tops = (1, 2)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InfogainLossSettings = site.settings
        data, labels = site.bottoms[:2]
        check_batch(data, labels)
        check_labels(data, labels, s.axis)
        classes = data[axis_index(s.axis, not_empty(data))]
        if s.normalize is not None:
            raise ShapeError(
                "InfogainLoss takes no loss_param.normalize", hint="Use normalization: VALID."
            )
        if len(site.bottoms) == 2 and s.source is None:
            raise ShapeError("InfogainLoss needs its matrix: a third bottom, or source: a file")
        if len(site.bottoms) == 3 and count(site.bottoms[2]) != classes**2:
            raise ShapeError(f"the infogain matrix {site.bottoms[2]} must be {classes} x {classes}")
        return ((), data)[: site.tops]

    def coupling(self, site: Site) -> Coupling:
        return _coupling(site)

    def labels(self, site: Site) -> Labels | None:
        return _labels(site, writes=False)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the labels")
        s: InfogainLossSettings = site.settings
        data = site.bottoms[0]
        classes = data[axis_index(s.axis, data)]
        from_file = len(site.bottoms) == 2
        if not from_file:
            refuse_gradient(site, 2, "the infogain matrix")
        buffers = (
            Buffer("prob_", count(data)),
            *softmax_buffers(data, s.axis),
            Buffer("sum_rows_H_", classes),
            *((Buffer("infogain_", classes**2),) if from_file else ()),
        )
        shares = ((top(1).data, own("prob_").data),) if site.tops == 2 else ()
        softmax = (bottom(0).data, own("prob_").data, own("scale_").data)
        if mode == "gpu":
            return Memory(buffers=buffers, forward=(*softmax, own("prob_").diff), shares=shares)
        rows = (own("sum_rows_H_").data,)
        matrix = (own("infogain_").data,) if from_file else (bottom(2).data,)
        return Memory(
            buffers=buffers,
            build=(
                own("sum_multiplier_").data,
                own("prob_").diff,
                *((*matrix, *rows) if from_file else ()),
            ),
            forward=(*softmax, bottom(1).data, top(0).data, *matrix),
            backward=(bottom(0).diff, top(0).diff, *rows) if site.bottom_need[0] else (),
            shares=shares,
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        return _softmax_by_cudnn(site, memory)
