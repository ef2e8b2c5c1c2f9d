"""What LSTM and RNN have in common: nets of their own, unrolled over the time steps.

Source: recurrent_layer.cpp, .cu, .hpp.

Bottoms: x (T, N, ...) with time on axis 0 and the batch of streams on axis 1, cont (T, N),
optionally a static input (N, ...), and with ``expose_hidden`` the initial hidden states, each
(1, N, D). Tops: (T, N, D), and with ``expose_hidden`` the final hidden states.

Weights shared with an earlier layer reach only the first time step of a TRAIN net: the layers of
the later steps have already joined the memory that this layer's weights had before, and only
Forward in a TEST net joins them again. So the later steps have a copy of the weights that no
update changes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Inner,
    Layer,
    Memory,
    Mode,
    Param,
    Rule,
    Shape,
    Site,
    count,
    filled,
    not_empty,
    refuse_gradient,
)
from caffe_batch.layers.concat import ConcatSettings, SliceSettings
from caffe_batch.layers.eltwise import EltwiseSettings
from caffe_batch.layers.facts import ANY_NUMBERS, Arithmetic, NumberKind, Numbers
from caffe_batch.layers.inner_product import InnerProductSettings
from caffe_batch.layers.input import InputSettings
from caffe_batch.layers.reduction import ReductionSettings
from caffe_batch.layers.reshape import ReshapeSettings
from caffe_batch.layers.scale import ScaleSettings
from caffe_batch.layers.sides import Side, bottom, inner, top

#: The most time steps supported. Caffe has no limit, but builds about ten layers for each step too.
MAX_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class RecurrentSettings:
    num_output: int = 0
    weight_filler: str = "constant"
    bias_filler: str = "constant"
    expose_hidden: bool = False


class Recurrent(Rule):
    """What LSTM and RNN have in common.

    Class attributes:
        output: Name of the inner blob that is top 0.
        hidden: Names of the initial hidden states, in the order of bottoms and tops.
        gates: How many numbers the input transform has for each output.
    """

    message = "recurrent_param"
    settings = RecurrentSettings
    forced_bottoms = (True, False)
    recurrent = True
    arithmetic = Arithmetic.PRODUCT
    output: str
    hidden: tuple[str, ...]
    gates: int

    @abstractmethod
    def steps(self, outputs: int, steps: int, *, static: bool) -> Iterator[Layer]:
        """The inner layers after the inputs, for that many outputs (num_output) and time steps."""

    @abstractmethod
    def last_hidden(self, steps: int) -> tuple[str, ...]:
        """Names of the final hidden states, in the order of ``hidden``."""

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: RecurrentSettings = site.settings
        self._check_numbers(site)
        x, cont = site.bottoms[:2]
        if len(x) < 3 or x[0] < 1:
            raise ShapeError(
                f"bottom 0 of {self.type} is (time steps, streams, ...), at least one step and "
                f"three axes, not {x}"
            )
        if x[0] > MAX_STEPS:
            raise ShapeError(
                f"{x[0]} time steps become a net of {x[0]} steps inside the layer; caffe-batch "
                f"supports at most {MAX_STEPS}",
                hint="Cut the sequences into shorter pieces; the state carries over between them.",
            )
        not_empty(cont)
        if cont != x[:2]:
            raise ShapeError(f"bottom 1, cont, must be {x[:2]} like bottom 0 {x}, not {cont}")
        if s.num_output < 1:
            raise ShapeError("recurrent_param needs num_output, at least 1")
        if self._static(site):
            static = site.bottoms[2]
            if len(static) < 2 or static[0] != x[1]:
                raise ShapeError(
                    f"bottom 2, the static input, must be ({x[1]}, ...) with at least two axes, "
                    f"not {static}"
                )
        state = (1, x[1], s.num_output)
        for i, shape in enumerate(self._hidden_bottoms(site)):
            if shape != state:
                raise ShapeError(f"hidden state {i} must be {state}, not {shape}")
        return ((x[0], x[1], s.num_output), *((state,) * (site.tops - 1)))

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        """Input weights and bias, static input weights, hidden weights; RNN: also output ones."""
        s: RecurrentSettings = site.settings
        outputs = self.gates * s.num_output
        weights = [(outputs, count(site.bottoms[0][2:]))]
        if self._static(site):
            weights += [(outputs, count(site.bottoms[2][1:]))]
        weights += [(outputs, s.num_output)]
        first, *others = [filled(shape, s.weight_filler) for shape in weights]
        return (first, filled((outputs,), s.bias_filler), *others)

    def keeps_state(self, settings: RecurrentSettings) -> bool:
        return not settings.expose_hidden

    def state_bottoms(self, settings: RecurrentSettings, bottoms: int) -> range:
        return range(bottoms - len(self.hidden) * settings.expose_hidden, bottoms)

    def numbers(self, site: Site, bottom: int) -> Numbers:
        return Numbers(NumberKind.BEGIN) if bottom == 1 else ANY_NUMBERS

    def coupling(self, site: Site) -> Coupling:
        every = range(len(site.bottoms[0]))
        return Coupling(
            joint=tuple(axis for axis in every if axis != 1),
            carries_state=self.keeps_state(site.settings),
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 1, "the sequence continuation indicators")
        static, last = self._static(site), self.last_hidden(site.bottoms[0][0])
        shares = [
            (inner("x").data, bottom(0).data),
            (inner("x").diff, bottom(0).diff),
            (inner("cont").data, bottom(1).data),
        ]
        if static:
            shares += [
                (inner("x_static").data, bottom(2).data),
                (inner("x_static").diff, bottom(2).diff),
            ]
        shares += [
            (top(0).data, inner(self.output).data),
            (top(0).diff, inner(self.output).diff),
        ]
        forward: list[Side] = []
        for i, (first, end) in enumerate(zip(self.hidden, last, strict=True)):
            if site.settings.expose_hidden:
                shares += [
                    (inner(first).data, bottom(2 + static + i).data),
                    (top(1 + i).data, inner(end).data),
                ]
            else:  # the final state of a pass is the initial one of the next
                forward += [inner(end).data, inner(first).data]
        # The gradient of the final states is zero, set once on the host.
        build = tuple([inner(blob).diff for blob in last]) if mode == "cpu" else ()
        return Memory(build=build, forward=tuple(forward), shares=tuple(shares))

    def inner(self, site: Site) -> Inner:
        s: RecurrentSettings = site.settings
        static = self._static(site)
        inputs = ("x", "cont", "x_static")[: 2 + static]
        unrolled = [
            Layer("", "Input", tops=inputs, settings=InputSettings(site.bottoms[: 2 + static])),
            _states(self.hidden[::-1], (1, site.bottoms[0][1], s.num_output)),
            *self.steps(s.num_output, site.bottoms[0][0], static=static),
        ]
        loss = f"{self.output}_pseudoloss"
        unrolled += [
            Layer(
                loss,
                "Reduction",
                bottoms=(self.output,),
                tops=(loss,),
                settings=ReductionSettings(),
                loss_weights=(1.0,),
            )
        ]
        names = dict.fromkeys([param.name for layer in unrolled for param in layer.params])
        return Inner(tuple(unrolled), parameters=tuple(names), idle=1)

    def _check_numbers(self, site: Site) -> None:
        exposed = len(self.hidden) * site.settings.expose_hidden
        given, tops = len(site.bottoms), 1 + exposed
        if not 2 + exposed <= given <= 3 + exposed or site.tops != tops:
            hidden = f" with {exposed} hidden states exposed" if exposed else ""
            raise ShapeError(
                f"{self.type}{hidden} takes {2 + exposed} or {3 + exposed} bottoms and {tops} "
                f"top(s), not {given} and {site.tops}"
            )

    def _static(self, site: Site) -> bool:
        exposed: bool = site.settings.expose_hidden
        return len(site.bottoms) > 2 + len(self.hidden) * exposed

    def _hidden_bottoms(self, site: Site) -> tuple[Shape, ...]:
        return tuple(
            [site.bottoms[i] for i in self.state_bottoms(site.settings, len(site.bottoms))]
        )


def _states(names: tuple[str, ...], shape: Shape) -> Layer:
    return Layer("", "Input", tops=names, settings=InputSettings((shape,) * len(names)))


def slice_layer(name: str, blob: str, parts: list[str]) -> Layer:
    """One part per time step."""
    settings = SliceSettings(axis=0)
    return Layer(name, "Slice", bottoms=(blob,), tops=tuple(parts), settings=settings)


def concat_layer(name: str, parts: list[str], blob: str) -> Layer:
    settings = ConcatSettings(axis=0)
    return Layer(name, "Concat", bottoms=tuple(parts), tops=(blob,), settings=settings)


def transform(
    name: str, bottom: str, top: str, outputs: int, params: tuple[str, ...], *,
    axis: int = 2, propagate: bool = False,
) -> Layer:  # fmt: skip
    """A fully connected layer, with a bias if two parameters are named."""
    return Layer(
        name,
        "InnerProduct",
        bottoms=(bottom,),
        tops=(top,),
        settings=InnerProductSettings(outputs, bias_term=len(params) == 2, axis=axis),
        params=tuple([Param(param) for param in params]),
        propagate_down=(True,) if propagate else (),
    )


def static_transform(weights: str, outputs: int) -> Iterator[Layer]:
    """The static input's share, the same at every time step."""
    before, top = f"{weights}_x_static_preshape", f"{weights}_x_static"
    yield transform(
        top, "x_static", before, outputs, (f"{weights}_static",), axis=1, propagate=True
    )
    settings = ReshapeSettings((1, -1, outputs))
    yield Layer(f"{top}_reshape", "Reshape", bottoms=(before,), tops=(top,), settings=settings)


def restart(name: str, hidden: str, cont: str) -> Layer:
    """The hidden state, or zero if a new sequence begins."""
    settings = ScaleSettings(axis=0)
    return Layer(name, "Scale", bottoms=(hidden, cont), tops=(name,), settings=settings)


def sum_layer(name: str, parts: tuple[str, ...], top: str) -> Layer:
    return Layer(name, "Eltwise", bottoms=parts, tops=(top,), settings=EltwiseSettings())
