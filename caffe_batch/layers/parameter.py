"""Parameter: a learnable blob as a top. Source: parameter_layer.hpp."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.layers.base import Coupling, Memory, Mode, Rule, Shape, Site
from caffe_batch.layers.sides import param, top


@dataclass(frozen=True, slots=True)
class ParameterSettings:
    shape: Shape = ()


class Parameter(Rule):
    type = "Parameter"
    message = "parameter_param"
    settings = ParameterSettings
    bottoms = (0, 0)
    fills_parameters = False

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ParameterSettings = site.settings
        return (s.shape,)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        return self.shape(site)

    def coupling(self, site: Site) -> Coupling:
        """Its top is the parameter: what the next layer writes as the top's gradient stays."""
        return Coupling(overwrites=(0,), lasting=(0,))

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(shares=((top(0).data, param(0).data), (top(0).diff, param(0).diff)))
