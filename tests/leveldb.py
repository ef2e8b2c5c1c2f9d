"""LevelDBs for tests, which are skipped where Python has no plyvel (no wheels for 3.13)."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

HAS_LEVELDB = find_spec("plyvel") is not None


def write_leveldb(path: Path, values: Iterable[bytes]) -> None:
    """Make a database whose keys are the numbers of its values."""
    plyvel = pytest.importorskip("plyvel")
    with plyvel.DB(str(path), create_if_missing=True) as database:
        for number, value in enumerate(values):
            database.put(b"%08d" % number, value)
