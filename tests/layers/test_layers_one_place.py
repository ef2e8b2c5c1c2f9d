"""Facts about layer types are in the rules: no other module asks for a type by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import caffe_batch
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.forks import types_of

PACKAGE = Path(caffe_batch.__file__).parent

#: Where types are implemented, or have another spelling.
APART = {
    "engines/caffe/inside/record_seeker.py",  # Caffe's own C++ classes
    "engines/caffe/inside/verify.py",  # what BatchNorm's three blobs mean
    "engines/torch/data/opening.py",  # readers for data layers
    "prototxt/upgrade.py",  # as Caffe's upgrade_proto.cpp does it
    "prototxt/upgrade_v0.py",
    "prototxt/upgrade_v1.py",
}

TYPES = {*BUILT_IN, *(rule.type for rule in types_of(None)), "Python"}
#: Words with other meanings as well; they count only where something is compared with them.
WORDS = {"Data", "Parameter", "Python"}


def test_no_module_asks_for_a_type_by_its_name() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert modules.keys() >= APART
    found = [
        f"{name}:{line}: {asked}"
        for name, path in modules.items()
        if name not in APART and "layers" not in name.split("/") and "schema" not in name
        for line, asked in asked_for(path.read_text())
    ]
    assert found == []


def test_the_search_finds_what_it_is_for() -> None:
    assert list(asked_for('x = layer.type == "Pooling"')) == [(1, "Pooling")]
    assert list(asked_for('x = layer.type in ("LSTM", "other")')) == [(1, "LSTM")]
    assert list(asked_for('KINDS = frozenset({"BN"})')) == [(1, "BN")]
    assert list(asked_for('KINDS = {"ReLU": 3}')) == [(1, "ReLU")]
    assert list(asked_for('layer.type == "Python"; print("Data", "Python")')) == [(1, "Python")]


def asked_for(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each layer type that something is compared with, or that is in a list."""
    seen: set[tuple[int, int]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            names = TYPES
        elif isinstance(node, (ast.Set, ast.List, ast.Tuple, ast.Dict)):
            names = TYPES - WORDS
        else:
            continue
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and each.value in names:
                place = (each.lineno, each.col_offset)
                if place not in seen:
                    seen.add(place)
                    yield each.lineno, str(each.value)
