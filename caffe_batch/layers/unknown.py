"""Layers that have no rule: types of forks and Python layers, accepted with ``--allow-unknown``.

Their tops take the shapes that the user gave (``--input-shape``). Without one, an in-place top
keeps its shape, and a top that no layer reads counts as a scalar. Their own buffers and parameters
are not known, so any total is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caffe_batch.errors import InputShapeError, Option, ShapeError
from caffe_batch.layers.base import Memory, Mode, Rule, Shape, Site
from caffe_batch.layers.given import Given, WholeShape


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """Where a layer says how many samples it makes.

    Attributes:
        path: The field, relative to the layer.
        size: The number.
        around: If it is part of a text (a Python layer's param_str): what is before and after it.
    """

    path: tuple[str | int, ...]
    size: int
    around: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class UnknownSettings:
    """What is known about a layer without a rule.

    Attributes:
        given: The shape that the user gave for each top, or None.
        batch_size: Samples of the net's batch; None if not known.
        text: The param_str of a Python layer.
        written: Where the layer itself says how many samples it makes, if it does.
        assumed: Where the batch size is from, for people; empty for layers that don't make the
            data.
    """

    given: tuple[Given | None, ...] = ()
    batch_size: int | None = None
    written: WrittenBatch | None = None
    assumed: str = ""
    text: str = ""


class Unknown(Rule):
    type = "(unknown)"
    bottoms = (0, None)
    tops = (0, None)
    unknown = True
    opaque = True
    assumes_batch = True
    open_params = True

    def needs_shapes(self, bottoms: int) -> bool:
        return True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        return tuple(given_top(site, number) for number in range(site.tops))

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory()


class UnknownLoss(Unknown):
    """A type whose name says that it is a loss: its first top has loss weight 1."""

    type = "(unknown loss)"
    is_loss = True


class UnknownData(Unknown):
    """A layer without bottoms that makes the batch."""

    type = "(unknown data)"
    has_batch_size = True

    def batch_path(self, settings: UnknownSettings) -> tuple[str | int, ...] | None:
        return None if settings.written is None else settings.written.path

    def batch_value(self, settings: UnknownSettings, size: int) -> Any:
        around = None if settings.written is None else settings.written.around
        return size if around is None else f"{around[0]}{size}{around[1]}"


UNKNOWN = Unknown()
UNKNOWN_LOSS = UnknownLoss()
UNKNOWN_DATA = UnknownData()


def unknown_rule(layer_type: str) -> Rule:
    """What is known of a type without a rule from its name: whether it is a loss.

    All losses of Caffe and of its forks have the word in their names, and no other layers have it.
    Python layers (``Python:module.Class``) don't get a loss weight by themselves, whatever their
    class is called.
    """
    loss = "Loss" in layer_type or layer_type.endswith("_LOSS")  # in old syntax
    return UNKNOWN_LOSS if loss and ":" not in layer_type else UNKNOWN


def given_top(site: Site, number: int) -> Shape:
    """The shape of a top of a layer whose settings are :class:`UnknownSettings`.

    Raises:
        InputShapeError: It depends on the batch, which isn't known.
        ShapeError: It was given, but contradicts the bottom that it works in place on.
    """
    settings: UnknownSettings = site.settings
    same = number < len(site.in_place) and site.in_place[number]
    given = settings.given[number] if number < len(settings.given) else None
    if given is None:
        return site.bottoms[number] if same else ()
    if isinstance(given, WholeShape):
        shape = given.at(_batch(settings) if given.batch_axes else 1)
    elif site.bottoms:
        shape = (*(site.bottoms[0][:1] or (1,)), *given)
    else:
        shape = (_batch(settings), *given)
    if same and shape != site.bottoms[number]:
        raise ShapeError(
            f"its top {number} is given as {shape}, but works in place on {site.bottoms[number]}",
            hint=["Leave its ", Option("input_shape"), " out."],
        )
    return shape


def _batch(settings: UnknownSettings) -> int:
    if settings.batch_size is None:
        raise InputShapeError(
            "its shape depends on the batch, and how many samples a batch has isn't written "
            "anywhere",
            hint=["Give it: ", Option("batch_size", "N"), "."],
        )
    return settings.batch_size
