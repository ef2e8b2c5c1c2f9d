"""Every input that once ended in a traceback, hung, or reached the terminal raw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.fuzz.trials import Trial, faults

CORPUS = sorted((Path(__file__).parents[1] / "data" / "corpus").glob("*.json"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_it_ends_well(path: Path, tmp_path: Path) -> None:
    trial = Trial.of_json(json.loads(path.read_text()))
    assert [fault.what for fault in faults(trial, tmp_path)] == []
