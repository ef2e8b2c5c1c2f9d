"""The list of rules: complete, without doubles, and each one tested beside the real Caffe."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.layers import RULES, by_type


def test_every_type_of_caffe_has_a_rule(pycaffe: Callable[..., str]) -> None:
    types = pycaffe("import caffe; print(*caffe.layer_type_list())").split()
    assert set(RULES) == set(types) - {"Python"}


def test_a_type_has_one_rule() -> None:
    with pytest.raises(ValueError, match="two rules for layer type 'ReLU'"):
        by_type([RULES["ReLU"], RULES["TanH"], RULES["ReLU"]])


def test_every_rule_is_compared_with_caffe() -> None:
    """The nets in the ACCEPTED tables of this folder use every type."""
    names = [f"tests.layers.{path.stem}" for path in Path(__file__).parent.glob("test_layers_*.py")]
    tables = [getattr(importlib.import_module(name), "ACCEPTED", ()) for name in names]
    assert set(RULES) <= set(re.findall(r'type: "(\w+)"', str(tables)))
