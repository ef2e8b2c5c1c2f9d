"""The types of variables: which values they accept and how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.rendering import Value, VariableType, show

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("variable_type", "given", "value"),
    [
        ("int", "64", 64),
        ("int", "-1", -1),
        ("int", 64, 64),
        ("float", "0.005", 0.005),
        ("float", "1e-8", 1e-8),
        ("float", "1", 1),
        ("float", 2, 2),
        ("bool", "true", True),
        ("bool", "False", False),
        ("bool", False, False),
        ("text", "64", "64"),
        ("text", "a,b", "a,b"),
        ("text", "", ""),
        ("text", Path("data/train_lmdb"), "data/train_lmdb"),
        ("list of int", "300,400", (300, 400)),
        ("list of int", "300", (300,)),
        ("list of int", "", ()),
        ("list of int", [3, 5], (3, 5)),
        ("list of int", 7, (7,)),
        ("list of float", "104, 117.5", (104, 117.5)),
        ("list of text", "a, b", ("a", "b")),
        ("lmdb | dummy", "dummy", "dummy"),
        ("50 | 101", "101", 101),
        ("50 | 101", 50, 50),
        ("any", "64", 64),
        ("any", "0.5", 0.5),
        ("any", "true", True),
        ("any", "train_lmdb", "train_lmdb"),
        ("any", "1,x", (1, "x")),
        ("any", [1, 2], (1, 2)),
    ],
)
def test_reads_values_of_each_type(variable_type: str, given: object, value: Value) -> None:
    read = VariableType.parse(variable_type).read(given)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("variable_type", "given"),
    [
        ("int", "12a"),
        ("int", "1.5"),
        ("int", ""),
        ("int", 1.5),
        ("int", True),
        ("int", "1,2"),
        ("int", [1]),
        ("float", "fast"),
        ("float", "nan"),
        ("float", float("inf")),
        ("float", True),
        ("bool", "1"),
        ("bool", 1),
        ("text", 5),
        ("text", b"bytes"),
        ("text", "\udcff"),  # what Python makes of an argument with the byte 0xff
        ("any", "\udcff"),
        ("text", ["a"]),
        ("list of int", "1,,2"),
        ("list of int", "1,x"),
        ("lmdb | dummy", "lmbd"),
        ("lmdb | dummy", "lmdb,dummy"),
        ("50 | 101", "34"),
        ("any", None),
        ("any", [None]),
    ],
)
def test_refuses_values_of_another_type(variable_type: str, given: object) -> None:
    with pytest.raises(ValueError, match=r".*"):
        VariableType.parse(variable_type).read(given)


@pytest.mark.parametrize("text", ["", "integer", "list of", "list of list of int", "Int"])
def test_refuses_what_is_not_a_type(text: str) -> None:
    with pytest.raises(ValueError, match="is not the type of a variable"):
        VariableType.parse(text)


@pytest.mark.parametrize("text", ["int", "list of float", "lmdb | dummy", "50 | 101 | 152"])
def test_a_type_prints_as_it_is_written(text: str) -> None:
    assert str(VariableType.parse(text)) == text


@given(st.booleans() | NUMBERS)
def test_what_is_shown_reads_back(value: Value) -> None:
    assert VariableType.parse("any").read(show(value)) == value


@given(st.lists(NUMBERS))
def test_a_list_that_is_shown_reads_back(values: list[int | float]) -> None:
    assert VariableType.parse("list of float").read(show(tuple(values))) == tuple(values)
