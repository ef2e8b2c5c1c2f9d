"""EuclideanLoss and ContrastiveLoss: distances between two blobs, both of which get a gradient.

Source: euclidean_loss_layer.cpp, .cu; contrastive_loss_layer.cpp, .cu; loss_layer.cpp.
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
    needed_diffs,
)
from caffe_batch.layers.facts import ANY_NUMBERS, NumberKind, Numbers
from caffe_batch.layers.labels import Loss, check_batch
from caffe_batch.layers.sides import bottom, own, top


class EuclideanLoss(Loss):
    type = "EuclideanLoss"
    forced_bottoms = ()

    def shape(self, site: Site) -> tuple[Shape, ...]:
        check_batch(*site.bottoms)
        first, second = site.bottoms
        if count(first[1:]) != count(second[1:]):
            raise ShapeError(f"bottom 0 {first} and bottom 1 {second} differ in size per sample")
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(divisor=site.bottoms[0][0])

    def memory(self, site: Site, mode: Mode) -> Memory:
        four_axes(site.bottoms[0])  # Forward reads the number of samples by the old four-axis call
        forward = [bottom(0).data, bottom(1).data, own("diff_").data]
        backward = [*needed_diffs(site)]
        if mode == "cpu":
            forward += [top(0).data]
            backward += [top(0).diff] if backward else []
        return Memory(
            buffers=(Buffer("diff_", count(site.bottoms[0])),),
            forward=tuple(forward),
            backward=tuple(backward),
        )


class ContrastiveLoss(Loss):
    """Pairs of samples with one label each, similar or not: (N, C), (N, C) and (N)."""

    type = "ContrastiveLoss"
    message = "contrastive_loss_param"
    bottoms = (3, 3)
    forced_bottoms = (True, True, False)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        first, second, similar = [four_axes(bottom) for bottom in site.bottoms]
        check_batch(*site.bottoms[:2])
        if first[1] != second[1] or (*first[2:], *second[2:], *similar[1:]) != (1,) * 7:
            raise ShapeError(
                "the bottoms of a ContrastiveLoss are (N, C), (N, C) and (N), not "
                f"{', '.join(str(bottom) for bottom in site.bottoms)}"
            )
        if similar[0] < first[0]:  # Caffe doesn't check it
            raise ShapeError(
                f"{first[0]} pairs have {similar[0]} label(s), and Caffe reads beyond them"
            )
        return ((),)

    def numbers(self, site: Site, bottom: int) -> Numbers:
        if bottom != 2:
            return ANY_NUMBERS
        return Numbers(NumberKind.INDEX, 2)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=all_but_first(site), divisor=site.bottoms[0][0])

    def memory(self, site: Site, mode: Mode) -> Memory:
        samples, channels = four_axes(site.bottoms[0])[:2]
        diffs = needed_diffs(site)
        forward = [bottom(0).data, bottom(1).data, own("diff_").data, own("dist_sq_").data]
        backward = [*diffs, bottom(2).data] if diffs else []
        if mode == "gpu":
            forward += [own("diff_sq_").data, own("summer_vec_").data]
        else:
            forward += [bottom(2).data, top(0).data]
            backward += [top(0).diff] if diffs else []
        return Memory(
            buffers=(
                Buffer("diff_", samples * channels),
                Buffer("dist_sq_", samples),
                Buffer("diff_sq_", samples * channels),
                Buffer("summer_vec_", channels),
            ),
            build=(own("summer_vec_").data,) if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
