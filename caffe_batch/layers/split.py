"""Split and Silence: a blob that several layers read, and blobs that none reads.

Source: split_layer.cpp, .cu; silence_layer.cpp, .cu.
"""

from __future__ import annotations

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site, needed_diffs
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, sides, top


class Split(Rule):
    """The tops share the bottom's data; each has its own diff, which Backward adds up."""

    type = "Split"
    copies = Copies.IN_ORDER
    tops = (1, None)
    fans_out = True
    may_share_top = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        refuse_in_place(site, self.type)
        return site.bottoms * site.tops

    def coupling(self, site: Site) -> Coupling:
        return Coupling(linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        backward = (*sides(top, site.tops, "diff"), bottom(0).diff)
        return Memory(
            backward=backward if site.bottom_need[0] else (),
            shares=tuple([(top, bottom(0).data) for top in sides(top, site.tops, "data")]),
        )


class Silence(Rule):
    """Consumes blobs so that they aren't outputs of the net; their gradient is zero."""

    type = "Silence"
    bottoms = (1, None)
    tops = (0, 0)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return ()

    def coupling(self, site: Site) -> Coupling:
        return Coupling()

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(backward=needed_diffs(site))


def refuse_in_place(site: Site, layer_type: str) -> None:
    """For layers whose top shares the bottom's memory anyway.

    Raises:
        ShapeError: A top is the same blob as the bottom.
    """
    if any(site.in_place):
        raise ShapeError(
            f"a {layer_type} layer can't work in place", hint="Give its top a name of its own."
        )
