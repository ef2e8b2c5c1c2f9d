"""Input and DummyData: the prototxt itself gives the shapes.

Source: input_layer.cpp, dummy_data_layer.cpp. Neither has GPU code: the layers after them copy to
the device what they need of their tops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from caffe_batch.errors import InputShapeError, ShapeError
from caffe_batch.layers.base import Coupling, Memory, Mode, Phase, Rule, Shape, Site, filled
from caffe_batch.layers.sides import top

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InputSettings:
    shape: tuple[Shape, ...] = ()


class Input(Rule):
    type = "Input"
    message = "input_param"
    settings = InputSettings
    bottoms = (0, 0)
    tops = (1, None)
    declares_shapes = True
    fed_by_program = True
    record_order = "Exact if the program that fills it passes the samples of an update in order."

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: InputSettings = site.settings
        if not s.shape:
            raise InputShapeError(
                "it has no shape", hint="Write input_param { shape { dim: ... } } for its tops."
            )
        return tuple(_one_a_top("shape", s.shape, site.tops))

    def literal_shapes(self, settings: InputSettings) -> tuple[Shape, ...]:
        return settings.shape

    def with_literal_shapes(
        self, settings: InputSettings, shapes: tuple[Shape, ...]
    ) -> InputSettings:
        return replace(settings, shape=shapes)

    def literal_path(self, settings: InputSettings, shape: int, axis: int) -> tuple[str | int, ...]:
        return (self.message, "shape", shape, "dim", axis)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory()


@dataclass(frozen=True, slots=True)
class DummyDataSettings:
    data_filler: tuple[str, ...] = ()
    shape: tuple[Shape, ...] = ()
    num: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    height: tuple[int, ...] = ()
    width: tuple[int, ...] = ()


class DummyData(Rule):
    type = "DummyData"
    message = "dummy_data_param"
    settings = DummyDataSettings
    bottoms = (0, 0)
    tops = (1, None)
    declares_shapes = True
    fills_tops = "data_filler"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: DummyDataSettings = site.settings
        shapes: Sequence[Shape]
        if s.num or s.channels or s.height or s.width:
            if s.shape:
                raise ShapeError("give either shape or num, channels, height and width, not both")
            axes = (
                _one_a_top(name, getattr(s, name), site.tops)
                for name in ("num", "channels", "height", "width")
            )
            shapes = list(zip(*axes, strict=True))
        else:
            shapes = _one_a_top("shape", s.shape, site.tops)
        fillers = _fillers(site)
        return tuple(filled(shape, filler) for shape, filler in zip(shapes, fillers, strict=True))

    def literal_shapes(self, settings: DummyDataSettings) -> tuple[Shape, ...]:
        if settings.shape:
            return settings.shape
        old = (settings.num, settings.channels, settings.height, settings.width)
        return tuple(zip(*old, strict=False))

    def with_literal_shapes(
        self, settings: DummyDataSettings, shapes: tuple[Shape, ...]
    ) -> DummyDataSettings:
        if settings.shape:
            return replace(settings, shape=shapes)
        return replace(settings, num=tuple(shape[0] for shape in shapes))

    def literal_path(
        self, settings: DummyDataSettings, shape: int, axis: int
    ) -> tuple[str | int, ...]:
        if settings.shape:
            return (self.message, "shape", shape, "dim", axis)
        return (self.message, ("num", "channels", "height", "width")[axis], shape)

    def draws(self, settings: DummyDataSettings, phase: Phase) -> bool:
        return any(filler != "constant" for filler in settings.data_filler)

    def coupling(self, site: Site) -> Coupling:
        constant = [filler == "constant" for filler in _fillers(site)]
        return Coupling(
            draws=self.draws(site.settings, site.phase),
            lasting=tuple(i for i, once in enumerate(constant) if once),
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        if mode == "gpu":
            return Memory()
        # Constants are written once, when the net is built; all others in every pass.
        constant = [filler == "constant" for filler in _fillers(site)]
        return Memory(
            build=tuple(top(i).data for i, once in enumerate(constant) if once),
            forward=tuple(top(i).data for i, once in enumerate(constant) if not once),
        )


def _fillers(site: Site) -> Sequence[str]:
    s: DummyDataSettings = site.settings
    return _one_a_top("data_filler", s.data_filler or ("constant",), site.tops)


def _one_a_top(name: str, values: Sequence[T], tops: int) -> Sequence[T]:
    """The values, one per top; a single one serves all tops."""
    if len(values) == 1:
        return tuple(values) * tops
    if len(values) == tops:
        return values
    raise ShapeError(
        f"{name} is given {len(values)} times for {tops} tops",
        hint="Give it once for all tops, or once for each.",
    )
