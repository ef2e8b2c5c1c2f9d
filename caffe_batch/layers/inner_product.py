"""InnerProduct: a fully connected layer. Source: inner_product_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Memory, Mode, Rule, Shape, Site, axis_index, count


@dataclass(frozen=True, slots=True)
class InnerProductSettings:
    num_output: int | None = None
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False


class InnerProduct(Rule):
    type = "InnerProduct"
    message = "inner_product_param"
    settings = InnerProductSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InnerProductSettings = site.settings
        bottom = site.bottoms[0]
        if not s.num_output:
            raise ShapeError("inner_product_param needs num_output, at least 1")
        return ((*bottom[: axis_index(s.axis, bottom)], s.num_output),)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: InnerProductSettings = site.settings
        bottom, outputs = site.bottoms[0], s.num_output or 0
        inputs = count(bottom[axis_index(s.axis, bottom) :])
        weights = (inputs, outputs) if s.transpose else (outputs, inputs)
        return (weights, (outputs,)) if s.bias_term else (weights,)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: InnerProductSettings = site.settings
        rows = count(site.bottoms[0][: axis_index(s.axis, site.bottoms[0])])
        forward = ["bottom0.data", "top0.data", "param0.data"]
        if s.bias_term:
            # A single row is added without the multiplier (inner_product_layer.cu, M_ == 1).
            forward += ["param1.data", "bias_multiplier_.data"]
        backward: list[str] = []
        if site.param_need[0]:
            backward += ["top0.diff", "bottom0.data", "param0.diff"]
        if s.bias_term and site.param_need[1]:
            backward += ["top0.diff", "bias_multiplier_.data", "param1.diff"]
        if site.bottom_need[0]:
            backward += ["top0.diff", "param0.data", "bottom0.diff"]
        return Memory(
            buffers=(Buffer("bias_multiplier_", rows),) if s.bias_term else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
