"""HingeLoss and MultinomialLogisticLoss: one label per sample. They run on the host only.

Source: hinge_loss_layer.cpp, multinomial_logistic_loss_layer.cpp, loss_layer.cpp.
"""

from __future__ import annotations

from dataclasses import replace

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Labels,
    Memory,
    Mode,
    Shape,
    Site,
    all_but_first,
    count,
    four_axes,
    refuse_gradient,
)
from caffe_batch.layers.labels import Loss, check_batch
from caffe_batch.layers.sides import Side, bottom, top


class HingeLoss(Loss):
    """It computes in the diff of bottom 0, in every phase."""

    type = "HingeLoss"
    other_messages = ("hinge_loss_param",)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        check_batch(*site.bottoms)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return replace(_mean_over_samples(site), scribbles=(0,))

    def labels(self, site: Site) -> Labels | None:
        """Forward flips a sign at the label's index, in the diff of bottom 0."""
        return Labels(1, count(site.bottoms[0][1:]), writes=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return _on_the_host(site, mode, scratch=(bottom(0).diff,))


class MultinomialLogisticLoss(Loss):
    type = "MultinomialLogisticLoss"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        check_batch(*site.bottoms)
        if four_axes(site.bottoms[1])[1:] != (1, 1, 1):
            raise ShapeError(f"the labels must be (N), one per sample, not {site.bottoms[1]}")
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return _mean_over_samples(site)

    def labels(self, site: Site) -> Labels | None:
        """Backward writes the gradient at the label's index."""
        writes = site.phase == "TRAIN" and site.backward
        return Labels(1, count(site.bottoms[0][1:]), writes=writes)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return _on_the_host(site, mode, scratch=())


def _mean_over_samples(site: Site) -> Coupling:
    return Coupling(joint=all_but_first(site), divisor=site.bottoms[0][0])


def _on_the_host(site: Site, mode: Mode, scratch: tuple[Side, ...]) -> Memory:
    refuse_gradient(site, 1, "the labels")
    four_axes(site.bottoms[0])  # Forward reads the number of samples by the old four-axis call
    if mode == "gpu":
        return Memory()
    return Memory(
        forward=(bottom(0).data, bottom(1).data, top(0).data, *scratch),
        backward=(bottom(0).diff, top(0).diff) if site.bottom_need[0] else (),
    )
