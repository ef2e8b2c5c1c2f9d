"""The batch of nets whose data comes from layers without a rule.

It is ``batch_size`` wherever such a layer has it written: in data_param, image_data_param or any
other message, or in the param_str of a Python layer. Otherwise it is what the user says, or the
first axis of the first top whose shape was given whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from google.protobuf.message import Message

from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Layer, Rule, Site
from caffe_batch.layers.given import Given, WholeShape, spelled
from caffe_batch.layers.unknown import UNKNOWN_DATA, UnknownSettings, WrittenBatch
from caffe_batch.net.batch import batch_sites, site_size
from caffe_batch.net.graph import rule_of
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import SkippedField
from caffe_batch.schema import caffe_pb2

#: The messages that are asked first for a ``batch_size``.
_FIRST = ("data_param", "image_data_param")

#: How the param_str of a Python layer gives it: a Python literal, JSON or YAML.
_IN_TEXT = re.compile(
    r"""(?<![\w'"])(['"]?)batch_size\1\s*[:=]\s*(?P<size>[1-9]\d{0,8})(?![\w.])"""
)


def written_batch(
    layer: caffe_pb2.LayerParameter, skipped: Iterable[SkippedField] = ()
) -> WrittenBatch | None:
    """Where a layer says how many samples it makes; None if it doesn't.

    Args:
        layer: The layer.
        skipped: Its fields that Caffe 1.0 doesn't have.
    """
    found = sorted(_batch_sizes(layer), key=lambda each: each.path[0] not in _FIRST)
    found += [WrittenBatch(*field.batch) for field in skipped if field.batch and field.batch[1] > 0]
    if found:
        return found[0]
    text = layer.python_param.param_str
    match = _IN_TEXT.search(text)
    if match is None:
        return None
    around = text[: match.start("size")], text[match.end("size") :]
    return WrittenBatch(("python_param", "param_str"), int(match["size"]), around)


def known_of(
    layer: caffe_pb2.LayerParameter,
    rule: Rule,
    sources: Sources,
    skipped: Iterable[SkippedField] = (),
) -> UnknownSettings:
    """What is known about a layer that ``assumes_batch``.

    Args:
        layer: The layer.
        rule: Its rule.
        sources: What the user said of its tops; that comes first.
        skipped: Its fields that Caffe 1.0 doesn't have.
    """
    known = UnknownSettings(
        sources.given(layer),
        written=written_batch(layer, skipped),
        text=layer.python_param.param_str,
    )
    usual = () if layer.bottom else rule.given_shapes(known, len(layer.top))
    if not usual:
        return known
    tops = range(len(layer.top))
    said = known.given or (None,) * len(tops)
    given = [_combined(said[i], usual[i] if i < len(usual) else None) for i in tops]
    return replace(known, given=tuple(given))


def _combined(said: Given | None, usual: Given | None) -> Given | None:
    """What the user said of a top, with the first axis that it has otherwise."""
    if said is None:
        return usual
    fixed = isinstance(usual, WholeShape) and usual.sizes and not usual.batch_axes
    if isinstance(said, tuple) and isinstance(usual, WholeShape) and fixed:
        return WholeShape((usual.sizes[0], *said))
    return said


def _batch_sizes(message: Message, path: tuple[str | int, ...] = ()) -> Iterator[WrittenBatch]:
    """The fields ``batch_size`` of a message and of the messages in it that are above 0."""
    for field, value in message.ListFields():
        here = (*path, field.name)
        if isinstance(value, Message):
            yield from _batch_sizes(value, here)
        elif field.name == "batch_size" and isinstance(value, int) and value > 0:
            yield WrittenBatch(here, value)


def with_assumed_batches(layers: Sequence[Layer], said: int | None) -> tuple[Layer, ...]:
    """The layers, with what those without a rule are taken to make.

    Args:
        layers: The layers; the settings of those without a rule say what is written and given.
        said: The batch size that the user gave, for data layers that don't have it written.

    Raises:
        InputError: What the user gave contradicts itself.
    """
    unknown = [i for i, layer in enumerate(layers) if rule_of(layer).assumes_batch]
    if not unknown:
        return tuple(layers)
    out = list(layers)
    makers = [i for i in unknown if not layers[i].bottoms and layers[i].tops]
    for i in makers:
        written = layers[i].settings.written
        if written is not None:
            where = "param_str" if written.around else ".".join(map(str, written.path))
            out[i] = _data(layers[i], written.size, where)
    if makers and not any(makes_samples(layer) for layer in out):
        out[makers[0]] = _taken(layers[makers[0]], said)
    sites = batch_sites(out)
    size = site_size(out, sites[0]) if sites else said
    return tuple(
        _beside(layer, size) if i in unknown and not rule_of(layer).has_batch_size else layer
        for i, layer in enumerate(out)
    )


def _beside(layer: Layer, size: int | None) -> Layer:
    """A layer that doesn't make the batch, with the size of it.

    What a Python layer was asked for grows with the batch if its first axis is that long.
    """
    settings: UnknownSettings = layer.settings
    given, rule = settings.given, rule_of(layer)
    if size and not rule.unknown and rule.needs_shapes(len(layer.bottoms)):
        given = tuple(_along_batch(each, size) for each in given)
    return replace(layer, settings=replace(settings, batch_size=size, given=given))


def makes_samples(layer: Layer) -> bool:
    """Whether a layer makes the batch; a constant doesn't."""
    rule = rule_of(layer)
    return rule.makes_data and not rule.fills_tops


def fixed_batch(layers: Sequence[Layer]) -> int | None:
    """The batch size of the net if the file doesn't say it, so that a plan can't change it."""
    for site in batch_sites(layers)[:1]:
        layer = layers[site.layer]
        if site.shape is None and rule_of(layer).batch_path(layer.settings) is None:
            return site_size(layers, site)
    return None


@dataclass(frozen=True, slots=True)
class Assumption:
    """Something about a layer that its file doesn't say for certain.

    Attributes:
        layer, type: The layer and its type.
        what: ``"batch_size"``, ``"loss_weight"``, ``"shapes"`` or ``"size"``.
        value: What it is taken for; of shapes a description.
        origin: Where that is from, for people.
    """

    layer: str
    type: str
    what: str
    value: int | float | str
    origin: str

    @property
    def text(self) -> str:
        """The assumption as a sentence."""
        layer = f"Layer {self.layer!r} ({self.type})"
        if self.what == "batch_size":
            return f"{layer} is taken to make batches of {self.value}: {self.origin}."
        if self.what == "size":
            return f"{layer} makes {self.value}: {self.origin}."
        if self.what == "shapes":
            other = Option("input_shape").shell
            return f"{layer} is taken to make {self.value}, {self.origin}; {other} says otherwise."
        return f"{layer} is taken for a loss of weight {self.value:g}: {self.origin}."

    def json(self) -> dict[str, Any]:
        """The assumption in the JSON of ``memory`` and ``plan``."""
        return {
            "layer": self.layer,
            "type": self.type,
            "what": self.what,
            "value": self.value,
            "from": self.origin,
        }


def assumptions(layers: Sequence[Layer]) -> tuple[Assumption, ...]:
    """What is assumed of layers whose files don't say everything."""
    found = []
    for layer in layers:
        rule = rule_of(layer)
        if rule.assumes_batch and rule.has_batch_size:
            size, origin = layer.settings.batch_size, layer.settings.assumed
            found.append(Assumption(layer.name, layer.type, "batch_size", size, origin))
        if rule.usual is not None and layer.given[:1] in ((), (None,)):
            found.append(Assumption(layer.name, layer.type, "shapes", *rule.usual))
        made = _other_than_given(layer)
        if made is not None:
            found.append(made)
        if rule.unknown and rule.is_loss and not layer.loss_weights:
            found.append(Assumption(layer.name, layer.type, "loss_weight", 1.0, "by its name"))
    return tuple(found)


def _other_than_given(layer: Layer) -> Assumption | None:
    """What a data layer makes of the records whose size the user gave, if that is something else.

    The settings crop, resize or grey them: the size that counts is theirs.
    """
    rule, given = rule_of(layer), layer.given[0] if layer.given else None
    if rule.source is None or given is None or layer.records is None:
        return None
    try:
        site = Site("TRAIN", layer.settings, (), len(layer.tops), records=layer.records)
        shape = rule.shape(site)[0][1:]
    except InputError:  # whoever builds the net says why
        return None
    if shape == layer.records[0]:
        return None
    size = spelled(layer.tops[0], given)
    what, origin = "x".join(map(str, shape)), f"what its settings make of records of {size}"
    return Assumption(layer.name, layer.type, "size", what, origin)


def _taken(layer: Layer, said: int | None) -> Layer:
    """The layer with the batch that the user gave for it, in either way; as it is without one."""
    wholes = [
        (top, given)
        for top, given in zip(layer.tops, layer.settings.given, strict=False)
        if isinstance(given, WholeShape)
    ]
    known = any(isinstance(each, tuple) for each in layer.settings.given)
    per_batch = known or any(given.batch_axes for _, given in wholes)
    firsts = [(top, given) for top, given in wholes if given.sizes and not given.batch_axes]
    if per_batch or not firsts:
        return layer if said is None else _data(layer, said, f"--batch-size {said}")
    top, given = firsts[0]
    size = given.sizes[0]
    if said not in (None, size):
        raise InputError(
            [
                Option("batch_size", said), " contradicts ",
                Option("input_shape", spelled(top, given)), f", a batch of {size}",
            ],
            hint=["Write N for the batch: ", Option("input_shape", _as_batch(top, given)), "."],
        )  # fmt: skip
    return _data(layer, size, f"the first axis of {spelled(top, given)}")


def _data(layer: Layer, size: int, where: str) -> Layer:
    settings: UnknownSettings = layer.settings
    return replace(
        layer,
        rule=_as_data(rule_of(layer)),
        settings=replace(
            settings,
            batch_size=size,
            assumed=where,
            given=tuple(_along_batch(each, size) for each in settings.given),
        ),
    )


@cache
def _as_data(rule: Rule) -> Rule:
    """The rule of a layer that is taken to make the batch."""
    if rule.unknown:
        return UNKNOWN_DATA
    data = copy.copy(rule)
    data.has_batch_size = True
    return data


def _along_batch(given: Given | None, size: int) -> Given | None:
    """A whole shape whose first axis is the batch, as one that grows with it."""
    if isinstance(given, WholeShape) and given.sizes[:1] == (size,) and not given.batch_axes:
        return WholeShape((1, *given.sizes[1:]), (0,))
    return given


def _as_batch(top: str, given: WholeShape) -> str:
    return spelled(top, WholeShape((1, *given.sizes[1:]), (0,)))
