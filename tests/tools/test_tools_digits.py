"""The digits as LMDB, read back by real Caffe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from sklearn.datasets import load_digits

from caffe_batch import resources
from caffe_batch.schema import caffe_pb2

TOOL = Path(__file__).resolve().parents[2] / "tools" / "digits.py"

READ = """
import json, sys
import caffe
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], caffe.TRAIN if sys.argv[2] == "train" else caffe.TEST)
net.forward()
print(json.dumps({"data": (net.blobs["data"].data * 240).round().reshape(-1, 64).tolist(),
                  "label": net.blobs["label"].data.tolist()}))
"""

#: Trains the recipe of prototxt/digits, its batch split, and prints the test accuracy.
TRAIN = """
import sys
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver(sys.argv[1])
solver.solve()
net = solver.test_nets[0]
net.share_with(solver.net)
print(sum(float(net.forward()["accuracy"]) for _ in range(3)) / 3)
"""


def write(folder: Path) -> str:
    command = [sys.executable, str(TOOL), str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "new" / "data"
    write(path)
    return path


def records(path: Path) -> list[tuple[bytes, int]]:
    with lmdb.open(str(path), readonly=True) as database, database.begin() as reader:
        data = [caffe_pb2.Datum.FromString(value) for _, value in reader.cursor()]
    assert {(datum.channels, datum.height, datum.width) for datum in data} == {(1, 8, 8)}
    return [(datum.data, datum.label) for datum in data]


def test_the_two_sets_are_all_the_digits(folder: Path) -> None:
    train, test = records(folder / "digits_train_lmdb"), records(folder / "digits_test_lmdb")
    assert (len(train), len(test)) == (1437, 360)
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    originals = [
        (image.tobytes(), int(label)) for image, label in zip(images, digits.target, strict=True)
    ]
    assert Counter(train + test) == Counter(originals)


def test_both_sets_hold_every_digit_in_the_same_share(folder: Path) -> None:
    for name in ("train", "test"):
        labels = Counter(label for _, label in records(folder / f"digits_{name}_lmdb"))
        total = sum(labels.values())
        assert all(abs(labels[digit] / total - 0.1) < 0.005 for digit in range(10))


def test_the_order_is_mixed(folder: Path) -> None:
    labels = [label for _, label in records(folder / "digits_train_lmdb")]
    assert all(len(set(labels[start : start + 64])) == 10 for start in range(0, 1024, 64))


@pytest.mark.parametrize(("name", "batch"), [("train", 256), ("test", 120)])
def test_caffe_reads_the_same_records(
    pycaffe: Callable[..., str], folder: Path, name: str, batch: int
) -> None:
    net = resources.folder("prototxt") / "digits" / "net.prototxt"
    read = json.loads(pycaffe(READ, str(net), name, cwd=folder))
    expected = records(folder / f"digits_{name}_lmdb")[:batch]
    assert read["label"] == [label for _, label in expected]
    assert read["data"] == [list(image) for image, _ in expected]


def test_a_second_call_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("data.mdb")}
    assert write(folder) == f"the digits are in {folder} already\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("data.mdb")} == before


def test_what_is_missing_is_written_and_nothing_else_is_left(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "digits_test_lmdb").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert write(tmp_path) == f"wrote {tmp_path / 'digits_train_lmdb'}\n"
    assert sorted(os.listdir(tmp_path)) == ["digits_test_lmdb", "digits_train_lmdb", "notes.txt"]
    assert records(tmp_path / "digits_train_lmdb") == records(folder / "digits_train_lmdb")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_the_recipe_reaches_its_accuracy(
    pycaffe: Callable[..., str], folder: Path, tmp_path: Path, seed: int
) -> None:
    recipe = resources.folder("prototxt") / "digits"
    net = (recipe / "net.prototxt").read_text().replace("batch_size: 256", "batch_size: 32")
    solver = (
        (recipe / "solver.prototxt").read_text().replace("random_seed: 1 ", f"random_seed: {seed} ")
    )
    solver = solver.replace('net: "', f'iter_size: 8\nnet: "{tmp_path}/')
    solver = solver.replace('prefix: "', f'prefix: "{tmp_path}/')
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(solver)
    assert float(pycaffe(TRAIN, str(tmp_path / "solver.prototxt"), cwd=folder)) >= 0.98
