"""Permute: the axes in another order.

Source: weiliu89/caffe (ssd), permute_layer.cpp, .cu. Backward doesn't ask whether the bottom needs
a gradient. An order that changes nothing shares the memory of bottom and top.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Coupling, Memory, Mode, Rule, Shape, Site
from caffe_batch.layers.facts import Copies
from caffe_batch.layers.sides import bottom, top


@dataclass(frozen=True, slots=True)
class PermuteSettings:
    order: tuple[int, ...] = ()


class Permute(Rule):
    type = "Permute"
    message = "permute_param"
    settings = PermuteSettings
    copies = Copies.SOME
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: permute_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        shape = site.bottoms[0]
        return (tuple([shape[axis] for axis in _order(site)]),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(linear=True, affine=True)

    def memory(self, site: Site, mode: Mode) -> Memory:
        axes = len(site.bottoms[0])
        names = ("permute_order_", "old_steps_", "new_steps_")
        buffers = tuple([Buffer(name, axes) for name in names])
        sides = tuple([buffer.data for buffer in buffers])
        build = sides if mode == "cpu" else ()
        if _order(site) == tuple(range(axes)):
            return Memory(
                buffers=buffers,
                build=build,
                shares=((top(0).data, bottom(0).data),),
                backward_shares=((bottom(0).diff, top(0).diff),),
            )
        return Memory(
            buffers=buffers,
            build=build,
            forward=(bottom(0).data, top(0).data, *sides),
            backward=(top(0).diff, bottom(0).diff),
        )


def _order(site: Site) -> tuple[int, ...]:
    """Which axis of the bottom each axis of the top is; axes that aren't named come last.

    Raises:
        ShapeError: An axis is named twice, or doesn't exist.
    """
    s: PermuteSettings = site.settings
    axes = len(site.bottoms[0])
    for axis in s.order:
        if axis >= axes:
            raise ShapeError(f"order {axis} is outside a blob of {axes} axes {site.bottoms[0]}")
        if s.order.count(axis) > 1:
            raise ShapeError(f"order names axis {axis} more than once")
    return (*s.order, *[axis for axis in range(axes) if axis not in s.order])
