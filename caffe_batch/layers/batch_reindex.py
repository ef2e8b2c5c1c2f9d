"""BatchReindex and Filter: some of the samples of a batch, chosen by another blob.

Source: batch_reindex_layer.cpp, .cu; filter_layer.cpp, .cu.

How many samples a Filter lets through depends on the data. Caffe builds the net as if all of them
went through, and blobs keep the memory that they once had: so the memory is that of a full batch,
although the blobs after it may be smaller during a run.
"""

from __future__ import annotations

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axis_index,
    count,
    not_empty,
    refuse_gradient,
)
from caffe_batch.layers.facts import ANY_NUMBERS, Copies, NumberKind, Numbers
from caffe_batch.layers.sides import Side, bottom, sides, top


class BatchReindex(Rule):
    type = "BatchReindex"
    bottoms = (2, 2)
    copies = Copies.SOME

    def shape(self, site: Site) -> tuple[Shape, ...]:
        data, indices = site.bottoms
        if len(indices) != 1:
            raise ShapeError(f"bottom 1 holds the indices; it needs one axis, not {indices}")
        return ((*indices, *data[1:]),)

    def numbers(self, site: Site, bottom: int) -> Numbers:
        if bottom != 1:
            return ANY_NUMBERS
        return Numbers(NumberKind.INDEX, site.bottoms[0][0])

    def coupling(self, site: Site) -> Coupling:
        return Coupling(selects=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the indices")
        data, indices = site.bottoms
        axis_index(0, data)  # a scalar passes the build, but not Forward
        need = site.bottom_need[0]
        # top_indexes, counts and begins: blobs that live as long as one Backward (GPU only; the
        # device sees the indices only in Forward).
        transient = indices[0] + 2 * data[0] if need and mode == "gpu" else 0
        return Memory(
            forward=(bottom(0).data, bottom(1).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if need else (),
            transient=transient,
        )


class Filter(Rule):
    type = "Filter"
    bottoms = (2, None)
    tops = (1, None)
    copies = Copies.SOME
    data_decides_size = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        *data, selector = site.bottoms
        if site.tops != len(data):
            raise ShapeError(
                f"{site.tops} top(s) for {len(data)} filtered bottom(s)",
                hint="The last bottom is the selector; every other bottom has one top.",
            )
        axis_index(0, not_empty(selector))
        if count(selector[1:]) != 1:
            raise ShapeError(f"all axes of the selector {selector} but the first must be 1")
        for i, shape in enumerate(data):
            if shape[:1] != selector[:1]:
                raise ShapeError(
                    f"bottom {i} {shape} and the selector {selector} differ in the first axis"
                )
        return tuple(data)

    def numbers(self, site: Site, bottom: int) -> Numbers:
        if bottom != len(site.bottoms) - 1:
            return ANY_NUMBERS
        return Numbers(NumberKind.SELECTOR)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(selects=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        selector = len(site.bottoms) - 1
        refuse_gradient(site, selector, "the selector")
        # The selector is read during Reshape, on the host in either mode.
        select = (bottom(selector).data,) if mode == "cpu" else ()
        backward: list[Side] = []
        for i, need in enumerate(site.bottom_need[:selector]):
            if need:
                backward += [top(i).diff, bottom(i).diff]
        return Memory(
            build=select,
            forward=(*sides(bottom, selector, "data"), *sides(top, site.tops, "data")),
            backward=tuple(backward),
        )
