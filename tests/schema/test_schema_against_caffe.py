"""The project's caffe.proto has the messages, fields and enums of a real caffe_pb2."""

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

from caffe_batch.schema import caffe_pb2

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


def test_the_package_and_the_names_are_the_same(theirs: FileDescriptorProto) -> None:
    assert OURS.package == theirs.package
    assert OURS.syntax == theirs.syntax
    assert messages(OURS).keys() == messages(theirs).keys()
    assert enums(OURS).keys() == enums(theirs).keys()


@pytest.mark.parametrize("name", messages(OURS))
def test_a_message_has_the_same_fields(name: str, theirs: FileDescriptorProto) -> None:
    assert messages(OURS)[name] == messages(theirs)[name]


@pytest.mark.parametrize("name", enums(OURS))
def test_an_enum_has_the_same_values_in_the_same_order(
    name: str, theirs: FileDescriptorProto
) -> None:
    # The first value is the default of fields that give none.
    assert list(enums(OURS)[name].items()) == list(enums(theirs)[name].items())


def test_every_message_and_enum_is_an_attribute_of_the_module() -> None:
    names = {message.name for message in OURS.message_type} | {enum.name for enum in OURS.enum_type}
    assert names <= vars(caffe_pb2).keys()
    assert caffe_pb2.TRAIN == caffe_pb2.Phase.Value("TRAIN") == 0
    assert caffe_pb2.TEST == caffe_pb2.Phase.Value("TEST") == 1
