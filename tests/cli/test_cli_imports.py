"""The commands parse, call the library and print; they import nothing that calculates."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import caffe_batch.cli

MODULES = sorted(Path(caffe_batch.cli.__file__).parent.glob("*.py"))

#: What a command may import from the package.
ALLOWED = {
    "caffe_batch",  # its version
    "caffe_batch.api",
    "caffe_batch.cli",
    "caffe_batch.errors",
    "caffe_batch.files",
    "caffe_batch.reporting",
    "caffe_batch.sizes",
    "caffe_batch.terminal",
}

#: Names of the engines, for --engine and caffe-batch.toml; the runtime and doctor commands are
#: about runtimes.
MORE = {
    "options": {"caffe_batch.engines"},
    "configuration": {"caffe_batch.engines"},
    "runtime": {"caffe_batch.runtimes"},
    "doctor": {"caffe_batch.runtimes"},
}


def imported(tree: ast.AST) -> set[str]:
    """The rooms of the package that a module imports from, types for mypy left out."""
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "caffe_batch":
            names |= {
                "caffe_batch" if alias.name.startswith("_") else f"caffe_batch.{alias.name}"
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {".".join(name.split(".")[:2]) for name in names}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_command_imports_the_library_and_nothing_below_it(module: Path) -> None:
    found = imported(ast.parse(module.read_text(encoding="utf-8")))
    own = {name for name in found if name.split(".")[0] == "caffe_batch"}
    assert own - ALLOWED <= MORE.get(module.stem, set())
    assert not found & {"math", "fractions", "statistics", "numpy", "pynvml", "subprocess"}
