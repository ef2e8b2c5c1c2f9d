"""The project's caffe.proto has the messages, fields and enums of a real caffe_pb2.

What it has beyond them is what forks have, and fork_fields.py says so.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from caffe_batch.layers.forks import FORKS
from caffe_batch.schema import caffe_pb2
from caffe_batch.schema.fork_fields import FORK_FIELDS

DUMP = """
import base64
import struct
from caffe.proto import caffe_pb2
print(base64.b64encode(caffe_pb2.DESCRIPTOR.serialized_pb).decode())
"""

Items = dict[str, dict[str, Any]]


def messages(file: FileDescriptorProto) -> Items:
    """Every message, nested ones too: name -> field name -> number, type, label and so on."""
    found: Items = {}

    def walk(message: DescriptorProto, above: str) -> None:
        name = f"{above}.{message.name}"
        found[name] = {field.name: described(field) for field in message.field}
        for nested in message.nested_type:
            walk(nested, name)

    for message in file.message_type:
        walk(message, file.package)
    return found


def described(field: FieldDescriptorProto) -> dict[str, Any]:
    return {
        "number": field.number,
        "type": field.type,
        "type_name": field.type_name,
        "label": field.label,
        "default": default(field),
        "packed": field.options.packed,
        "oneof": field.HasField("oneof_index"),
    }


def default(field: FieldDescriptorProto) -> object:
    """The default that a field has: floats as stored, "" and 0 the same if written or not."""
    if field.type == field.TYPE_FLOAT:
        return struct.pack("f", float(field.default_value or 0))
    if field.type == field.TYPE_STRING:
        return field.default_value
    return field.default_value if field.HasField("default_value") else None


def enums(file: FileDescriptorProto) -> Items:
    """Every enum, nested ones too: name -> value name -> number."""

    def walk(message: DescriptorProto, above: str) -> Iterator[tuple[str, EnumDescriptorProto]]:
        name = f"{above}.{message.name}"
        yield from ((f"{name}.{enum.name}", enum) for enum in message.enum_type)
        for nested in message.nested_type:
            yield from walk(nested, name)

    found = [(f"{file.package}.{enum.name}", enum) for enum in file.enum_type]
    for message in file.message_type:
        found += walk(message, file.package)
    return {name: {value.name: value.number for value in enum.value} for name, enum in found}


OURS = FileDescriptorProto.FromString(caffe_pb2.DESCRIPTOR.serialized_pb)


@pytest.fixture(scope="module")
def theirs(pycaffe: Callable[..., str]) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(base64.b64decode(pycaffe(DUMP)))


#: Enums, and values of enums, that only forks have.
FORK_ENUMS = {"caffe.ImageDataParameter.LabelType"}
FORK_VALUES = {
    "caffe.LossParameter.NormalizationMode": {"PRE_FIXED"},
    "caffe.V1LayerParameter.LayerType": {
        "CONVOLUTION3D",
        "DECONVOLUTION3D",
        "IMAGE_SEG_DATA",
        "INTERP",
        "POOLING3D",
        "SEG_ACCURACY",
        "VIDEO_DATA",
    },
}


def of_forks(name: str) -> set[str]:
    """The fields of a message that fork_fields.py lists."""
    short = name.removeprefix("caffe.")
    return {field.rpartition(".")[2] for field in FORK_FIELDS if field.rpartition(".")[0] == short}


def test_the_package_and_the_names_are_the_same(theirs: FileDescriptorProto) -> None:
    assert OURS.package == theirs.package
    assert OURS.syntax == theirs.syntax
    assert messages(OURS).keys() >= messages(theirs).keys()
    assert enums(OURS).keys() >= enums(theirs).keys() | FORK_ENUMS


@pytest.mark.parametrize("name", messages(OURS))
def test_a_message_has_the_same_fields(name: str, theirs: FileDescriptorProto) -> None:
    ours, real = messages(OURS)[name], messages(theirs).get(name)
    if real is not None:
        assert {field: ours[field] for field in ours.keys() - of_forks(name)} == real
        assert of_forks(name) <= ours.keys() - real.keys()
    numbers = [field["number"] for field in ours.values()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", enums(OURS))
def test_an_enum_has_the_same_values_in_the_same_order(
    name: str, theirs: FileDescriptorProto
) -> None:
    # The first value is the default of fields that give none.
    real = enums(theirs).get(name)
    if real is not None:
        own = [
            each for each in enums(OURS)[name].items() if each[0] not in FORK_VALUES.get(name, ())
        ]
        assert own == list(real.items())


def test_messages_of_forks_hang_on_a_field_of_theirs(theirs: FileDescriptorProto) -> None:
    """A message that Caffe lacks is reached only through fields that fork_fields.py lists."""
    real = messages(theirs).keys()
    reached: set[str] = set()
    waiting = [
        messages(OURS)[f"caffe.{message}"][field]["type_name"].lstrip(".")
        for message, _, field in (each.partition(".") for each in FORK_FIELDS)
    ]
    while waiting:
        name = waiting.pop()
        if name in messages(OURS) and name not in reached | real:
            reached.add(name)
            waiting += [field["type_name"].lstrip(".") for field in messages(OURS)[name].values()]
    records = {
        f"caffe.{name}"
        for name in ("AnnotatedDatum", "AnnotationGroup", "Annotation", "NormalizedBBox")
    }
    assert messages(OURS).keys() - real == reached | records


def test_the_forks_of_a_field_are_known() -> None:
    assert {fork for forks in FORK_FIELDS.values() for fork in forks} == set(FORKS)


def test_every_message_and_enum_is_an_attribute_of_the_module() -> None:
    names = {message.name for message in OURS.message_type} | {enum.name for enum in OURS.enum_type}
    assert names <= vars(caffe_pb2).keys()
    assert caffe_pb2.TRAIN == caffe_pb2.Phase.Value("TRAIN") == 0
    assert caffe_pb2.TEST == caffe_pb2.Phase.Value("TEST") == 1
