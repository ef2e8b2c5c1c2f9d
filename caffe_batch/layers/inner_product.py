"""InnerProduct: a fully connected layer. Source: inner_product_layer.cpp, .cu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    ChannelChange,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axes_from,
    axis_index,
    count,
    filled,
    not_empty,
)
from caffe_batch.layers.facts import Arithmetic
from caffe_batch.layers.sides import Side, bottom, own, param, top


@dataclass(frozen=True, slots=True)
class InnerProductSettings:
    num_output: int | None = None
    bias_term: bool = True
    weight_filler: str = "constant"
    bias_filler: str = "constant"
    axis: int = 1
    transpose: bool = False


class InnerProduct(Rule):
    type = "InnerProduct"
    message = "inner_product_param"
    settings = InnerProductSettings
    arithmetic = Arithmetic.PRODUCT

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InnerProductSettings = site.settings
        bottom = site.bottoms[0]
        if not s.num_output:
            raise ShapeError("inner_product_param needs num_output, at least 1")
        rows = bottom[: axis_index(s.axis, bottom)]
        if s.bias_term:
            not_empty(rows)
        return ((*rows, s.num_output),)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: InnerProductSettings = site.settings
        bottom, outputs = site.bottoms[0], s.num_output or 0
        inputs = count(bottom[axis_index(s.axis, bottom) :])
        weights = filled((inputs, outputs) if s.transpose else (outputs, inputs), s.weight_filler)
        return (weights, filled((outputs,), s.bias_filler)) if s.bias_term else (weights,)

    def coupling(self, site: Site) -> Coupling:
        s: InnerProductSettings = site.settings
        joint = axes_from(s.axis, site.bottoms[0])
        return Coupling(joint=joint, linear=not s.bias_term, affine=True)

    def with_change(
        self, settings: InnerProductSettings, blobs: Sequence[Any], change: ChannelChange
    ) -> list[Any] | None:
        if settings.axis != 1 or not blobs or len(change.factor) != settings.num_output:
            return None
        factor = change.factor if settings.transpose else change.factor[:, None]
        bias = blobs[1].ravel() if len(blobs) > 1 else 0.0
        return [blobs[0] * factor, bias * change.factor + change.shift]

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: InnerProductSettings = site.settings
        rows = count(site.bottoms[0][: axis_index(s.axis, site.bottoms[0])])
        ones = (own("bias_multiplier_").data,)
        forward = [bottom(0).data, top(0).data, param(0).data]
        backward: list[Side] = []
        if s.bias_term:
            forward += [param(1).data]
            if rows != 1 and mode == "gpu":  # a single row is added without the multiplier
                forward += ones
            if site.param_need[1]:
                backward += [top(0).diff, param(1).diff, *ones]
        if site.param_need[0]:
            backward += [top(0).diff, bottom(0).data, param(0).diff]
        if site.bottom_need[0]:
            backward += [top(0).diff, param(0).data, bottom(0).diff]
        return Memory(
            buffers=(Buffer("bias_multiplier_", rows),) if s.bias_term else (),
            build=ones if s.bias_term and mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
