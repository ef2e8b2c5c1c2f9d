"""The list of rules: complete, without duplicates, and each one tested against real Caffe."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.registry import Registry


def test_every_type_of_caffe_has_a_rule(pycaffe: Callable[..., str]) -> None:
    types = pycaffe("import caffe; print(*caffe.layer_type_list())").split()
    assert set(BUILT_IN) == set(types) - {"Python"}


def test_a_type_has_one_rule() -> None:
    with pytest.raises(InputError, match="two rules for layer type 'ReLU'"):
        Registry([BUILT_IN["ReLU"], BUILT_IN["TanH"], BUILT_IN["ReLU"]])


def test_every_rule_is_compared_with_caffe() -> None:
    """The nets in the ACCEPTED tables of this folder use every type."""
    names = [f"tests.layers.{path.stem}" for path in Path(__file__).parent.glob("test_layers_*.py")]
    tables = [getattr(importlib.import_module(name), "ACCEPTED", ()) for name in names]
    assert set(BUILT_IN) <= set(re.findall(r'type: "(\w+)"', str(tables)))
