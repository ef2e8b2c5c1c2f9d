"""A fixture that measures nets on real Caffe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.experiments import verify
from caffe_batch.runtimes import Runtime
from tests.experiments.measuring import Bench, forked


@pytest.fixture
def slow_bench(tmp_path: Path, runtime: Runtime) -> Bench:
    """The real thing: each measurement starts the worker, which takes two seconds."""
    return Bench(tmp_path, runtime)


@pytest.fixture
def bench(slow_bench: Bench, pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same but for how the worker starts."""
    monkeypatch.setattr(verify, "run_verification", forked(pycaffe))
    return slow_bench
