"""Random messages of Caffe 1.0's schema, without the fields of forks, for property tests."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.fork_fields import FORK_FIELDS

#: Values of enums from this number on are those of forks.
FIRST_OF_FORKS = 20001

AnyMessage = TypeVar("AnyMessage", bound=Message)
Anything = TypeVar("Anything")

# Lone surrogates are no UTF-8; everything else may stand in a string.
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 0.01, 0.999, 1e-8, 5e-4, 1e6]) | st.floats(
    width=32, allow_nan=False
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
}


def scalars(field: Any) -> st.SearchStrategy[Any]:
    """Values of a field that holds no messages."""
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return st.sampled_from([number for number in numbers if number < FIRST_OF_FORKS])
    if field.cpp_type in INTEGERS:
        low, high = INTEGERS[field.cpp_type]
        return st.integers(0, 9) | st.integers(low, high)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return FLOATS
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats(allow_nan=False)
    return STRINGS


@st.composite
def messages(
    draw: st.DrawFn, kind: type[AnyMessage], *, without: frozenset[str] = frozenset()
) -> AnyMessage:
    """Messages of a type, some fields of each message given, none of those in ``without``."""
    message = kind()
    _fill(draw, message, without)
    return message


def _fill(draw: st.DrawFn, message: Message, without: frozenset[str]) -> None:
    known = field_rules(message.DESCRIPTOR)
    fields = [
        field
        for field in message.DESCRIPTOR.fields
        if field.name not in without and field.full_name.removeprefix("caffe.") not in FORK_FIELDS
    ]
    chosen = draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda field: field.name))
    chosen += [field for field in fields if known[field.name].required and field not in chosen]
    for field in chosen:
        rule = known[field.name]
        count = draw(st.integers(0, 3)) if rule.repeated else 1
        if rule.message is None:
            values = [draw(scalars(field)) for _ in range(count)]
            if rule.repeated:
                getattr(message, field.name).extend(values)
            else:
                setattr(message, field.name, values[0])
            continue
        target = getattr(message, field.name)
        if not rule.repeated:
            target.SetInParent()
        for _ in range(count):
            _fill(draw, target.add() if rule.repeated else target, without)


def collect(strategy: st.SearchStrategy[Anything], count: int) -> list[Anything]:
    """Examples of a strategy, the same ones every time: for checks that take many at once."""
    found: list[Anything] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Anything) -> None:
        found.append(example)

    run()
    return found
