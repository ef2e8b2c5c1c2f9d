"""SigmoidCrossEntropyLoss: independent yes/no targets.

Source: sigmoid_cross_entropy_loss_layer.cpp, .cu, .hpp; layer.hpp (SetLossWeights).

On the GPU it sums in the diffs of both bottoms, in every phase. The Sigmoid inside gets a copy of
the layer's message from before the default loss weight: only a weight written in the prototxt
reaches it, and the diff of its output then holds that weight.
"""

from __future__ import annotations

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Labels,
    Memory,
    Mode,
    Shape,
    Site,
    count,
    not_empty,
    refuse_gradient,
)
from caffe_batch.layers.labels import Loss, LossSettings, check_batch, normalizer
from caffe_batch.layers.sides import bottom, own, top


class SigmoidCrossEntropyLoss(Loss):
    type = "SigmoidCrossEntropyLoss"
    scored_by = "Sigmoid"
    settings = LossSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        data, targets = site.bottoms
        check_batch(data, targets)
        if count(data) != count(targets):
            raise ShapeError(f"predictions {data} and targets {targets} must have the same count")
        if any(site.loss_weights):
            not_empty(data)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        data = site.bottoms[0]
        divisor, by_labels = normalizer(
            site.settings, default="BATCH_SIZE", outer=data[0], inner=count(data[1:])
        )
        return Coupling(divisor=divisor, by_labels=(0,) if by_labels else ())

    def labels(self, site: Site) -> Labels | None:
        return Labels(1, None, site.settings.ignore_label)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the targets")
        weighted = any(site.loss_weights)
        inner_diff = (own("sigmoid_output_").diff,) if weighted else ()
        backward = [bottom(0).diff] if site.bottom_need[0] else []
        forward = [bottom(0).data, bottom(1).data, own("sigmoid_output_").data, *inner_diff]
        if mode == "gpu":
            forward += [bottom(0).diff, bottom(1).diff]
        else:
            forward += [top(0).data]
            backward += [top(0).diff] if site.bottom_need[0] else []
        return Memory(
            buffers=(Buffer("sigmoid_output_", count(site.bottoms[0])),),
            build=inner_diff if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
