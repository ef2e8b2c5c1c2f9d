"""Element-wise layers: y = f(x); the top has the bottom's shape; all but AbsVal may be in place.

Source: neuron_layer.cpp and the .cpp and .cu of relu, sigmoid, tanh, absval, bnll, elu, exp, log,
power, clip, threshold, dropout and swish (``..._layer``).

Backward reads data that Forward has already touched, so only its diffs are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf, log
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Phase,
    Rule,
    Settings,
    Shape,
    Site,
    count,
    refuse_backward,
)
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.sides import Side, bottom, own, top


class Neuron(Rule):
    """The plain case: no settings that affect shape or memory, no buffers."""

    works_in_place = True

    def __init__(
        self,
        name: str = "",
        message: str = "",
        settings: Settings | None = None,
        *,
        reads_top: ReadsTop | None = None,
        reads_signs: bool = False,
        keeps_signs: bool = False,
    ) -> None:
        self.type = name or self.type
        self.message = message or self.message
        self.settings = settings or self.settings
        self.reads_top = reads_top or self.reads_top
        self.reads_signs = reads_signs or self.reads_signs
        self.keeps_signs = keeps_signs or self.keeps_signs

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return site.bottoms

    def coupling(self, site: Site) -> Coupling:
        return Coupling()

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(
            forward=(bottom(0).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    engine: str = "DEFAULT"


class EngineNeuron(Neuron):
    """ReLU, Sigmoid and TanH: cuDNN touches the same sides, but accepts at most four axes."""

    settings = EngineSettings

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        s: EngineSettings | None = site.settings  # None inside an RNN
        if (s is None or s.engine != "CAFFE") and len(site.bottoms[0]) > 4:
            raise ShapeError(
                f"{self.type} with cuDNN takes at most 4 axes, not {site.bottoms[0]}",
                hint="Write engine: CAFFE.",
            )
        return memory


class AbsVal(Neuron):
    type = "AbsVal"
    works_in_place = False

    def shape(self, site: Site) -> tuple[Shape, ...]:
        if site.in_place[0]:
            raise ShapeError("AbsVal can't work in place", hint="Give its top a name of its own.")
        return site.bottoms

    def memory(self, site: Site, mode: Mode) -> Memory:
        backward = (top(0).diff, bottom(0).diff) if site.bottom_need[0] else (top(0).diff,)
        return Memory(forward=(bottom(0).data, top(0).data), backward=backward)


class Threshold(Neuron):
    """Has no Backward: Caffe aborts if one is asked for."""

    type = "Threshold"
    message = "threshold_param"

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        return Memory(forward=(bottom(0).data, top(0).data))


@dataclass(frozen=True, slots=True)
class BaseSettings:
    base: float = -1.0  # stands for e


class Exponential(Neuron):
    """Exp and Log."""

    def shape(self, site: Site) -> tuple[Shape, ...]:
        base: float = site.settings.base
        if base != -1 and (not base > 0 or isinf(base) or (self.type == "Log" and log(base) == 0)):
            raise ShapeError(
                f"{self.type} can't have base {base:g}",
                hint="Use a base above 0 (and for Log, not 1), or leave it out for e.",
            )
        return site.bottoms

    def coupling(self, site: Site) -> Coupling:
        """Log computes its derivative in the bottom's gradient."""
        return Coupling(rereads=self.type == "Log")


@dataclass(frozen=True, slots=True)
class PowerSettings:
    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0


class Power(Neuron):
    """Its Backward computes the derivative in the bottom's gradient, even if it is constant."""

    type = "Power"
    message = "power_param"
    settings = PowerSettings
    reads_top = ReadsTop.ALWAYS

    def coupling(self, site: Site) -> Coupling:
        s: PowerSettings = site.settings
        affine, constant = s.power == 1, s.power * s.scale == 0
        return Coupling(linear=affine and s.shift == 0, affine=affine, rereads=not constant)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: PowerSettings = site.settings
        constant = s.power * s.scale == 0  # the input doesn't matter and isn't read
        return Memory(
            forward=(top(0).data,) if constant else (bottom(0).data, top(0).data),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


class Dropout(Neuron):
    type = "Dropout"
    message = "dropout_param"
    keeps_signs = True
    undrawn = ("dropout_ratio", 1e-30)  # above 0, as Caffe demands, but drops and scales nothing

    def draws(self, settings: Any, phase: Phase) -> bool:
        return phase == "TRAIN"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase))

    def memory(self, site: Site, mode: Mode) -> Memory:
        forward: tuple[Side, ...] = (bottom(0).data, top(0).data)
        # The CPU code takes the mask's pointer before it checks the phase.
        if site.phase == "TRAIN" or mode == "cpu":
            forward += (own("rand_vec_").data,)
        return Memory(
            buffers=(Buffer("rand_vec_", count(site.bottoms[0])),),
            forward=forward,
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


class Swish(Neuron):
    """Runs a Sigmoid layer on a scaled copy of its input.

    That layer gets the Swish layer's own message: a loss weight in it fills the diff of the
    Sigmoid's output as well.
    """

    type = "Swish"
    message = "swish_param"
    reads_top = ReadsTop.ALWAYS

    def memory(self, site: Site, mode: Mode) -> Memory:
        size = count(site.bottoms[0])
        weight = (own("sigmoid_output_").diff,) if any(site.loss_weights) else ()
        return Memory(
            buffers=(Buffer("sigmoid_input_", size), Buffer("sigmoid_output_", size)),
            build=weight if mode == "cpu" else (),
            forward=(
                bottom(0).data,
                own("sigmoid_input_").data,
                own("sigmoid_output_").data,
                top(0).data,
                *weight,
            ),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )


NEURONS: tuple[Neuron, ...] = (
    EngineNeuron(
        "ReLU", "relu_param", reads_top=ReadsTop.IN_PLACE, reads_signs=True, keeps_signs=True
    ),
    EngineNeuron("Sigmoid", "sigmoid_param", reads_top=ReadsTop.ALWAYS),
    EngineNeuron("TanH", "tanh_param", reads_top=ReadsTop.ALWAYS, keeps_signs=True),
    Neuron("BNLL", reads_top=ReadsTop.IN_PLACE),
    Neuron("ELU", "elu_param", reads_top=ReadsTop.ALWAYS),
    Neuron("Clip", "clip_param", reads_top=ReadsTop.IN_PLACE),
    Exponential("Exp", "exp_param", BaseSettings, reads_top=ReadsTop.ALWAYS),
    Exponential("Log", "log_param", BaseSettings, reads_top=ReadsTop.IN_PLACE),
    AbsVal(),
    Dropout(),
    Power(),
    Swish(),
    Threshold(),
)
