"""Only the worker of the PyTorch engine imports torch: neither the commands nor the rest does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import caffe_batch

PACKAGE = Path(caffe_batch.__file__).parent
ENGINE = PACKAGE / "engines" / "torch"

#: The modules of the engine that are used before a worker starts.
BEFORE_THE_WORKER = (
    "caffe_batch.engines.torch",
    "caffe_batch.engines.torch.engine",
    "caffe_batch.engines.torch.probe",
)


def imported(path: Path) -> set[str]:
    """The packages that a module imports, at its top or anywhere inside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_no_module_outside_the_engine_imports_torch() -> None:
    outside = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(ENGINE)]
    assert PACKAGE / "engines" / "base.py" in outside
    assert [str(path) for path in outside if "torch" in imported(path)] == []


@pytest.mark.parametrize("module", BEFORE_THE_WORKER)
def test_what_comes_before_the_worker_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
