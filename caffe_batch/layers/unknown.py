"""Layers that have no rule: types of forks and Python layers, accepted with ``--allow-unknown``.

Their tops take the shape that the user gave (``--input-shape TOP=CxHxW``). Without one, an in-place
top keeps its shape, and a top that no layer reads counts as a scalar. Their own buffers and
parameters are not known, so any total is a lower bound.
"""

from __future__ import annotations

from caffe_batch.layers.base import Memory, Mode, Rule, Shape, Site


class Unknown(Rule):
    type = "(unknown)"
    bottoms = (0, None)
    tops = (0, None)

    def shape(self, site: Site) -> tuple[Shape, ...]:
        if site.records is None:
            return tuple(site.bottoms[i] if same else () for i, same in enumerate(site.in_place))
        batch = site.bottoms[0][:1] if site.bottoms else (1,)
        return tuple((*batch, *record) for record in site.records)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory()


UNKNOWN = Unknown()
