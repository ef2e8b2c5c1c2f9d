"""Embed: a table of vectors, looked up by index. Source: embed_layer.cpp, .cu."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Labels,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    filled,
    not_empty,
    refuse_gradient,
)
from caffe_batch.layers.sides import Side, bottom, own, param, top


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    num_output: int | None = None
    input_dim: int | None = None
    bias_term: bool = True
    weight_filler: str = "constant"
    bias_filler: str = "constant"


class Embed(Rule):
    type = "Embed"
    message = "embed_param"
    settings = EmbedSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: EmbedSettings = site.settings
        if not s.num_output or not s.input_dim:
            raise ShapeError("embed_param needs num_output and input_dim, both at least 1")
        if s.bias_term:
            not_empty(site.bottoms[0])
        return ((*site.bottoms[0], s.num_output),)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: EmbedSettings = site.settings
        outputs = s.num_output or 0
        weights = filled((s.input_dim or 0, outputs), s.weight_filler)
        return (weights, filled((outputs,), s.bias_filler)) if s.bias_term else (weights,)

    def coupling(self, site: Site) -> Coupling:
        return Coupling()

    def labels(self, site: Site) -> Labels | None:
        """Backward adds to the row of the weights that the index selects."""
        s: EmbedSettings = site.settings
        writes = site.phase == "TRAIN" and site.backward and site.param_need[0]
        return Labels(0, s.input_dim, writes=writes)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: EmbedSettings = site.settings
        refuse_gradient(site, 0, "the indices of an Embed layer")
        ones = (own("bias_multiplier_").data,) if s.bias_term else ()
        forward = [bottom(0).data, top(0).data, param(0).data, *ones]
        backward: list[Side] = []
        if site.param_need[0]:
            backward += [top(0).diff, bottom(0).data, param(0).diff]
        if s.bias_term:
            forward += [param(1).data]
            if site.param_need[1]:
                backward += [top(0).diff, param(1).diff, *ones]
        return Memory(
            buffers=(Buffer("bias_multiplier_", count(site.bottoms[0])),) if s.bias_term else (),
            build=ones if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )
