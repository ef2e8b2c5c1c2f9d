"""Holds random draws equal, since draws in each pass would hide the effect of accumulation.

Dropout is off (its ratio is next to 0, so that the layer still exists), random DummyData gives the
same numbers in all runs, whether cut into micro-batches or not, and stochastic pooling, which Caffe
can't do on the CPU at all, takes the mean. The layers' rules say which layers draw, and how to turn
that off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

from caffe_batch.layers.base import Rule, Shape, count
from caffe_batch.layers.facts import NumberKind, Numbers
from caffe_batch.net.convert import read_settings
from caffe_batch.schema import caffe_pb2

#: A layer of a net, and the rule of its type.
Ruled = tuple[caffe_pb2.LayerParameter, Rule]


def hold(layer: caffe_pb2.LayerParameter, rule: Rule) -> None:
    """Make a layer draw nothing, if it has a setting for that."""
    if rule.undrawn is not None and draws(layer, rule):
        field, value = rule.undrawn
        message = getattr(layer, rule.message)
        kind = message.DESCRIPTOR.fields_by_name[field].enum_type
        setattr(message, field, value if kind is None else kind.values_by_name[value].number)


def how_held(layers: Iterable[Ruled]) -> tuple[str, ...]:
    """How the draws of the TRAIN net's layers are held, one phrase each; empty without draws."""
    phrases = []
    for layer, rule in layers:
        if rule.undrawn is not None and draws(layer, rule):
            field, value = rule.undrawn
            more = "" if rule.draws_on_cpu else "; Caffe's CPU code can't draw there"
            phrases.append(f"{layer.name!r} draws nothing ({field} {value}{more})")
        elif any(map(is_random, fillers_of(layer, rule))):
            phrases.append(f"{layer.name!r} is given numbers")
    return tuple(phrases)


def can_draw(layers: Iterable[Ruled]) -> bool:
    """Whether Caffe's CPU code can make every draw of these layers."""
    return all(rule.draws_on_cpu or not draws(layer, rule) for layer, rule in layers)


def draws(layer: caffe_pb2.LayerParameter, rule: Rule) -> bool:
    """Whether a layer of the TRAIN net draws random numbers in each pass."""
    return rule.draws(read_settings(layer, rule, {}), "TRAIN")


def fillers_of(layer: caffe_pb2.LayerParameter, rule: Rule) -> Sequence[caffe_pb2.FillerParameter]:
    """The fillers of a layer's tops, one for all or one each; empty if it doesn't fill them."""
    if not rule.fills_tops:
        return ()
    fillers: Sequence[caffe_pb2.FillerParameter] = getattr(
        getattr(layer, rule.message), rule.fills_tops
    )
    return fillers


def filled_numbers(filler: caffe_pb2.FillerParameter, shape: Shape) -> Numbers:
    """Numbers with the distribution of a filler (filler.hpp), for a blob of this shape."""
    inputs = count(shape[1:]) or 1
    if filler.type == "gaussian":
        return Numbers(NumberKind.NORMAL, low=filler.mean, high=filler.mean + filler.std)
    if filler.type == "msra":
        return Numbers(NumberKind.NORMAL, high=sqrt(2 / inputs))
    if filler.type == "xavier":
        return Numbers(low=-sqrt(3 / inputs), high=sqrt(3 / inputs))
    if filler.type == "positive_unitball":
        return Numbers(high=2 / inputs)
    return Numbers(low=filler.min, high=filler.max)


def is_random(filler: caffe_pb2.FillerParameter) -> bool:
    """Whether a filler gives different numbers each time."""
    return filler.type not in ("constant", "bilinear")
