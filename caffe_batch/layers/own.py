"""Rules in a few lines, for the layers of a user: in a file of ``--rules``, or without one.

docs/rules.md has worked examples.
"""

from __future__ import annotations

import copy
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    all_but_first,
    count,
    needed_diffs,
)
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.sides import bottom, own, param, top
from caffe_batch.layers.unknown import UnknownData, given_top

#: The type of all layers whose code is Python; the registry knows them by their class as well.
PYTHON_TYPE = "Python"
#: What comes before the class of a Python layer in the name of its type.
PYTHON = f"{PYTHON_TYPE}:"


class OwnRule(Rule):
    """A rule that needs nothing but a few class attributes.

    Unless they say otherwise, the tops have the shape of a bottom, and the layer touches all its
    blobs: it reads the bottoms and parameters, writes the tops, and computes every gradient that
    is asked for.

    Class attributes:
        type: The layer type.
        python: Instead of a type: the class of a Python layer, as ``"Class"`` or
            ``"module.Class"``. Python layers work on the host, so they take no GPU memory of
            their own.
        treat_as: Another type whose rule it has; everything else then doesn't count.
        same_as: The number of the bottom whose shape the tops have; if None, the one with the most
            elements, and in place each bottom's own.
        shapes: The shapes of the tops as texts: ``"Nx21x32x32"``, where N is the first axis of
            the first bottom or, without bottoms, the batch; ``"128x5"``, ``""`` for a scalar. A
            layer without bottoms and shapes has those that the user gives.
        buffers: Numbers of elements of the blobs that it holds besides, for each element of
            bottom 0: ``(1,)`` for a mask of its size.
        loss: ``"mean"`` or ``"sum"`` over the samples for a loss; its top is a scalar. Caffe gives
            a Python layer no loss weight by itself: the net says ``loss_weight: 1``.

    The batch of a layer that makes the data is ``batch_size`` wherever it is written, or else what
    the user says.
    """

    python: str = ""
    treat_as: str = ""
    same_as: int | None = None
    shapes: tuple[str, ...] | list[str] | None = None
    buffers: tuple[int, ...] = ()
    loss: str = ""

    bottoms = (0, None)
    tops = (0, None)

    def __init__(self) -> None:
        if self.python:
            self.type = PYTHON + self.python
        self.is_loss = bool(self.loss) and not self.python
        self.assumes_batch = self.settings is None

    def needs_shapes(self, bottoms: int) -> bool:
        return not bottoms and self.shapes is None

    def given_shapes(self, settings: Any, tops: int) -> tuple[Given, ...]:
        return self._written()[:tops]

    def shape(self, site: Site) -> tuple[Shape, ...]:
        if not site.bottoms:
            return tuple(given_top(site, number) for number in range(site.tops))
        if self.shapes is not None:
            return tuple(shape.at(_samples(site)) for shape in self._written())
        if self.loss:
            return ((),) * site.tops
        return tuple(same_shape(site, number, self.same_as) for number in range(site.tops))

    def memory(self, site: Site, mode: Mode) -> Memory:
        if self.python and mode == "gpu":
            return Memory()
        reads = tuple(bottom(i).data for i in range(len(site.bottoms)))
        writes = tuple(top(i).data for i in range(site.tops))
        learned = range(len(site.param_need))
        elements = count(site.bottoms[0]) if site.bottoms else 1
        held = tuple(
            Buffer(f"buffer_{i}_", times * elements) for i, times in enumerate(self.buffers)
        )
        buffers = tuple(own(each.name).data for each in held)
        return Memory(
            buffers=held,
            forward=(*reads, *writes, *(param(i).data for i in learned), *buffers),
            backward=(
                *(top(i).diff for i in range(site.tops)),
                *needed_diffs(site),
                *(param(i).diff for i in learned if site.param_need[i]),
            ),
        )

    def _written(self) -> tuple[WholeShape, ...]:
        return tuple(map(WholeShape.parse, self.shapes or ()))

    def coupling(self, site: Site) -> Coupling:
        if self.loss:
            divisor = _samples(site) if self.loss == "mean" else 1
            return Coupling(joint=all_but_first(site), divisor=divisor)
        return Coupling(joint=all_but_first(site))

    def batch_path(self, settings: Any) -> tuple[str | int, ...] | None:
        return _DATA.batch_path(settings)

    def batch_value(self, settings: Any, size: int) -> Any:
        return _DATA.batch_value(settings, size)


class SameShape(OwnRule):
    """A type whose tops have the shape of a bottom.

    Args:
        layer_type: The type.
        number: Which bottom; None for the one with the most elements.
    """

    def __init__(self, layer_type: str, number: int | None = None) -> None:
        self.python = layer_type.removeprefix(PYTHON) if layer_type.startswith(PYTHON) else ""
        self.type, self.same_as = layer_type, number
        super().__init__()


class Asked(OwnRule):
    """A Python layer whose tops the runtime has given, as shapes given by the user.

    Args:
        layer_type: ``Python:module.Class``.
    """

    opaque = True  # only its shapes were asked

    def __init__(self, layer_type: str) -> None:
        self.python = layer_type.removeprefix(PYTHON)
        super().__init__()

    def needs_shapes(self, bottoms: int) -> bool:
        return True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return tuple(given_top(site, number) for number in range(site.tops))


def treated_as(layer_type: str, rule: Rule, origin: str) -> Rule:
    """The rule of another type, for a type of this name.

    The layer may have more ``param`` blocks than the other type has parameters, and learn what the
    other one doesn't.
    """
    treated = copy.copy(rule)
    treated.type, treated.origin = layer_type, origin
    treated.open_params, treated.fixed_parameters = True, False
    return treated


def same_shape(site: Site, number: int, same_as: int | None) -> Shape:
    """The shape of a top that has that of a bottom.

    Raises:
        ShapeError: There is no such bottom.
    """
    if not site.bottoms or (same_as is not None and same_as >= len(site.bottoms)):
        which = "no bottoms" if not site.bottoms else f"no bottom {same_as}"
        raise ShapeError(f"its tops can't have the shape of a bottom: it has {which}")
    if same_as is not None:
        return site.bottoms[same_as]
    if number < len(site.in_place) and site.in_place[number]:
        return site.bottoms[number]
    return max(site.bottoms, key=count)


_DATA = UnknownData()


def _samples(site: Site) -> int:
    """Samples of the batch: the first axis of bottom 0."""
    return site.bottoms[0][0] if site.bottoms and site.bottoms[0] else 1
