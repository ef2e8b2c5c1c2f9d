"""Deaths that real Caffe dies, on PyTorch: each names the layer, the file and the first cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch import engines, runtimes
from tests import planned_jobs
from tests.engines.caffe.test_caffe_causes import DEATHS, die

MEAN = "a record is 1 x 5 x 7 and the mean file 1 x 9 x 9; layer 'train' (TRAIN): mean.binaryproto"

#: What PyTorch says where Caffe dies.
TOLD = {
    "a mean file of another size": ["failed check: layer 'train': record '00000000': ", MEAN],
    "two mean files of another size": ["failed check: layer 'test': ", MEAN],
    "a missing image": ["layer 'images': Could not load 3.png", "(TRAIN): list.txt:4: source "],
    "an image that is missing later": ["layer 'images': Could not load 20.png", "list.txt:21: "],
    "windows outside of the image": [
        "failed check: layer 'windows': windows.txt: 0.png: the window 0 0 90 90 isn't inside",
    ],
    "a database that was cut off": ["failed check: layer 'train': LMDB data is truncated: it has"],
    "an exception of a Python layer": [
        "Python error: forward of Python layer own.Own has raised Odd: odd one (",
        "own.py:11); that is the code of layer 'mine'",
    ],
    "the last words of a Python layer": ["Python error: SystemExit: no labels in here ("],
    "prints without a line feed before a failed check": [
        "Python error: forward of Python layer own.Own has raised ValueError: negative dimensions",
    ],
}
#: The one that is tried by default.
FIRST = "an exception of a Python layer"


@pytest.mark.parametrize(
    "case", [pytest.param(each, marks=[pytest.mark.slow] * (each != FIRST)) for each in DEATHS]
)
def test_what_caffe_dies_of(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_jobs, "engine", "pytorch")
    said = die(runtimes.find(None, engines.find("pytorch")), tmp_path, case)
    assert [words for words in TOLD[case] if words not in said] == [], said
