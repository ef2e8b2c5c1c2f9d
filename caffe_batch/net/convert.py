"""Turns protobuf layers into plain :class:`~caffe_batch.layers.base.Layer` data; nothing else does.

A rule names the message with its settings and a frozen dataclass; each field of the dataclass takes
the value of the message's field of that name. A field that may be None tells "not set" apart from
the default; enums become their names, BlobShapes tuples of ints, FillerParameters their type,
messages whose field is a dataclass that dataclass, other messages True (where only their presence
matters), and repeated fields tuples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_type_hints

from google.protobuf.descriptor import FieldDescriptor

from caffe_batch.layers.base import Layer, Param, Rule
from caffe_batch.net.sources import RecordSizes
from caffe_batch.schema import caffe_pb2

_LAYER_FIELDS = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name


NO_SOURCE = RecordSizes()

Reader = tuple[str, bool, Callable[[Any], Any]]
"""A field: its name, whether None means "not set", and how its value is read."""


def convert(
    layer: caffe_pb2.LayerParameter,
    rule: Rule,
    source: RecordSizes = NO_SOURCE,
    known: dict[Any, Any] | None = None,
) -> Layer:
    """One layer as plain data.

    Args:
        layer: The message, in current syntax.
        rule: The rule of its type.
        source: For data layers: the sizes of the records.
        known: Settings and params seen so far, which equal layers share; it grows.
    """
    known = {} if known is None else known
    return Layer(
        name=layer.name,
        type=layer.type,
        bottoms=tuple(layer.bottom),
        tops=tuple(layer.top),
        settings=read_settings(layer, rule, known),
        params=tuple([_param(spec, known) for spec in layer.param]),
        loss_weights=tuple(layer.loss_weight),
        propagate_down=tuple(layer.propagate_down),
        records=source.shapes,
        file_rows=source.file_rows,
        unequal_records=source.unequal,
        unread=source.unread,
        rule=rule,
    )


def read_settings(
    layer: caffe_pb2.LayerParameter, rule: Rule, known: dict[Any, Any] | None = None
) -> Any:
    """The rule's settings dataclass, filled from the layer's messages.

    Args:
        layer: The message, in current syntax.
        rule: The rule of its type.
        known: As for :func:`convert`.
    """
    known = {} if known is None else known
    settings = rule.settings
    if settings is None:
        return None
    plan = _reading_plan(settings, rule.message)  # type: ignore[arg-type]  # a class is hashable
    given = [  # for absent messages the dataclass has caffe.proto's defaults
        (getattr(layer, name) if name else layer, readers)
        for name, readers in plan
        if not name or _has(layer, name)
    ]
    key = (rule, *((readers, message.SerializeToString()) for message, readers in given))
    if key not in known:
        known[key] = settings(**_values(given))
    return known[key]


def _values(given: list[tuple[Any, tuple[Reader, ...]]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for message, readers in given:
        for name, optional, read in readers:
            if optional and not _has(message, name):
                continue
            values[name] = read(getattr(message, name))
    return values


@cache
def _reading_plan(settings: type, own_message: str) -> tuple[tuple[str, tuple[Reader, ...]], ...]:
    """For each message: (field name, whether None means "not set", how to read its value)."""
    hints = get_type_hints(settings)
    plan: dict[str, list[Reader]] = {}
    for field in dataclasses.fields(settings):
        message = field.metadata.get("message", own_message)
        fields = _fields(message)
        kinds = getattr(hints[field.name], "__args__", (hints[field.name],))
        inside = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        read = _reader(fields[field.name], inside)
        plan.setdefault(message, []).append((field.name, type(None) in kinds, read))
    return tuple((message, tuple(readers)) for message, readers in plan.items())


def _inside(kind: Any) -> Callable[[Any], Any]:
    """How a message within a layer's message becomes the dataclass with its fields."""
    names = [field.name for field in dataclasses.fields(kind)]

    def read(message: Any) -> Any:
        fields = message.DESCRIPTOR.fields_by_name
        return kind(**{name: _reader(fields[name])(getattr(message, name)) for name in names})

    return read


def _has(message: Any, name: str) -> bool:
    """HasField for a name that comes from a rule (the stubs list every literal one)."""
    return bool(message.HasField(name))


def _fields(message: str) -> Mapping[str, FieldDescriptor]:
    inner = _LAYER_FIELDS[message].message_type if message else None
    return _LAYER_FIELDS if inner is None else inner.fields_by_name


def _reader(field: FieldDescriptor, inside: Any = None) -> Callable[[Any], Any]:
    """How a field is read; ``inside`` is the dataclass of a message that has one."""
    read = _scalar_reader(field) if inside is None else _inside(inside)
    # protobuf 7 has no `label`, protobuf below 6 no `is_repeated`; the stubs know one of them.
    known: Any = field
    if known.is_repeated if hasattr(known, "is_repeated") else known.label == known.LABEL_REPEATED:
        return lambda values: tuple(read(value) for value in values)
    return read


def _scalar_reader(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        names: Mapping[int, str] = {v.number: v.name for v in field.enum_type.values}
        return names.__getitem__
    if field.message_type is not None and field.message_type.name == "BlobShape":
        return lambda shape: tuple(shape.dim)
    if field.message_type is not None and field.message_type.name == "FillerParameter":
        return lambda filler: filler.type
    if field.message_type is not None:
        return lambda _: True
    return lambda value: value


def _param(spec: caffe_pb2.ParamSpec, known: dict[Any, Any]) -> Param:
    key = spec.SerializeToString()
    if key not in known:
        known[key] = Param(
            name=spec.name,
            lr_mult=spec.lr_mult if spec.HasField("lr_mult") else None,
            decay_mult=spec.decay_mult if spec.HasField("decay_mult") else None,
            permissive=spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE,
        )
    param: Param = known[key]
    return param


def fillers(layer: caffe_pb2.LayerParameter) -> Iterator[caffe_pb2.FillerParameter]:
    """Every filler of a layer, of its parameters or its tops, as far as it is written."""
    for field, message in layer.ListFields():
        if field.message_type is not None and field.name.endswith("_param"):
            for inner, value in message.ListFields() if hasattr(message, "ListFields") else ():
                if inner.message_type is caffe_pb2.FillerParameter.DESCRIPTOR:
                    yield from value if hasattr(value, "add") else [value]
