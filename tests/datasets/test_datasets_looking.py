"""``data info``: what it says of each kind of source is what is in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

from caffe_batch import api
from caffe_batch.datasets import look_at
from caffe_batch.errors import InputError
from caffe_batch.reporting.data_page import render_data
from caffe_batch.schema import caffe_pb2
from tests.command import call
from tests.datasets.making import noise, write_classes, write_digits
from tests.holding import PATIENCE_S
from tests.leveldb import write_leveldb


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "pictures", most=200)
    api.data(folder / "pictures", folder / "set", gray=True, processes=1)
    return folder / "set"


def datum(label: int, size: int = 7, **fields: object) -> bytes:
    made = caffe_pb2.Datum(channels=3, height=size, width=5, label=label, **fields)  # type: ignore[arg-type]
    if not made.data and not made.float_data:
        made.data = bytes(range(3 * size * 5))
    return made.SerializeToString()


def write_database(path: Path, records: list[bytes], *, backend: str) -> Path:
    if backend == "LevelDB":
        write_leveldb(path, records)
        return path
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        for number, value in enumerate(records):
            transaction.put(b"%08d" % number, value)
    return path


def test_a_data_set(dataset: Path) -> None:
    look = look_at(dataset)
    assert look.kind == "data set"
    assert look.labels == tuple("0123456789")
    assert look.dataset is not None
    train, test = look.parts
    assert [train.by_class[label] for label in range(10)] == list(look.dataset.train.by_class)
    assert test.records == test.read == sum(test.by_class.values())
    assert train.shapes == {(1, 8, 8): train.records}
    assert {each.label for each in train.shown} == set(range(10))
    assert all(each.png.startswith(b"\x89PNG") for each in train.shown)
    assert look.notes == ()


def test_a_data_set_that_was_changed(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "train_lmdb")
    shutil.copytree(dataset / "test_lmdb", tmp_path / "set" / "train_lmdb")
    (note,) = look_at(tmp_path / "set").notes
    assert note.startswith("train_lmdb has 40 records, and dataset.json says 160")


@pytest.mark.parametrize("backend", ["LMDB", "LevelDB"])
def test_a_database(tmp_path: Path, backend: str) -> None:
    """Also one with records of several kinds, and with faulty ones."""
    whole = (tmp_path / "whole.png", tmp_path / "cut.png")
    noise(1, 9, 11).save(whole[0])
    records = [
        datum(2), datum(2), datum(5, size=11), datum(0, float_data=[0.5] * 105),
        datum(1, data=whole[0].read_bytes(), encoded=True),
        datum(1, data=whole[0].read_bytes()[:60], encoded=True),
        datum(3, data=b"short"), b"\xff no datum",
    ]  # fmt: skip
    path = write_database(tmp_path / "db", records, backend=backend)
    look = look_at(path)
    (part,) = look.parts
    assert (look.kind, part.kind, part.records, part.read) == (backend, backend, 8, 8)
    assert part.by_class == {2: 2, 5: 1, 0: 1, 1: 2, 3: 1}
    assert part.shapes == {(3, 7, 5): 4, (3, 11, 5): 1, (3, 9, 11): 1}
    assert part.encoded == 2
    assert part.faulty == 3
    assert part.problems[1:] == [
        "record '00000006' has 5 values for 3 x 7 x 5", "record '00000007' is no Datum",
    ]  # fmt: skip
    assert {each.label for each in part.shown} == {0, 1, 2, 5}


def test_a_large_database_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_batch.datasets.looking.RECORDS", 40)
    path = write_database(tmp_path / "db", [datum(n % 3) for n in range(200)], backend="LMDB")
    (part,) = look_at(path).parts
    assert (part.records, part.read) == (200, sum(part.by_class.values()))
    assert 30 <= part.read <= 40
    (part,) = look_at(path, complete=True).parts
    assert part.by_class == {0: 67, 1: 67, 2: 66}


def test_hdf5_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.linspace(-1, 1, 6 * 3 * 5 * 7).reshape(6, 3, 5, 7).astype("f4")
        file["label"] = np.array([[0], [1], [1], [4], [4], [4]], "f4")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((2, 11), "f8")
        file["target"] = np.zeros((2, 3), "i4")
    (part,) = look_at(tmp_path / "a.h5").parts
    assert part.datasets == {"data": ((6, 3, 5, 7), "float32"), "label": ((6, 1), "float32")}
    assert part.by_class == {0: 1, 1: 2, 4: 3}
    assert part.shapes == {(3, 5, 7): 6}
    assert sorted(each.label or 0 for each in part.shown) == [0, 1, 1, 4, 4, 4]
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    look = look_at(tmp_path / "list.txt")
    assert [part.name for part in look.parts] == ["a.h5", "b.h5"]
    assert look.parts[1].datasets["target"] == ((2, 3), "int32")
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:500])
    with pytest.raises(InputError, match=r"a\.h5 is not a readable HDF5 file"):
        look_at(tmp_path / "list.txt")


def test_pictures_and_lists_of_them(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "set", {"cat": 3, "dog": 2})
    noise(7, 20, 30, channels=1).save(source / "dog" / "gray.png")
    (source / "dog" / "broken.png").write_text("no picture")
    (part,) = look_at(source).parts
    assert part.by_class == {0: 3, 1: 4}
    assert part.shapes == {(3, 7, 7): 5, (1, 20, 30): 1}
    assert part.problems == ["dog/broken.png: not an image file"]
    (tmp_path / "list.txt").write_text("cat/0.png 3\ndog/1.png 7\n")
    look = look_at(tmp_path / "list.txt", root=source)
    assert look.labels == ("3", "7")
    assert look.parts[0].records == 2


def test_what_is_nothing_of_the_kind(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nothing\n")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("gone", "gone: no such file"),
        ("text", "line 1 of .* is 'nothing', and `path label` is expected"),
        ("empty", "has no classes: it is empty"),
    ):
        with pytest.raises(InputError, match=message):
            look_at(tmp_path / name)


def test_text_and_json(dataset: Path, tmp_path: Path) -> None:
    done = call("data", "info", dataset, "--page", tmp_path / "page.html")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[:3] == ["train_lmdb", "kind LMDB", "records 160"]
    assert "label class train_lmdb test_lmdb" in lines
    assert done.err.endswith(f"wrote {tmp_path / 'page.html'}\n")
    found = json.loads(call("data", "info", dataset, "--json").out)
    assert found["dataset"] == json.loads((dataset / "dataset.json").read_text())
    assert found["parts"][1]["shapes"] == [{"shape": [1, 8, 8], "records": 40}]


def test_the_page_needs_nothing_else_and_shows_names_as_text(tmp_path: Path) -> None:
    source = write_classes(
        tmp_path / "set", {"<script>alert(1)</script>".replace("/", "|"): 2, "b": 1}
    )
    page = render_data(look_at(source))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', page)
    assert page.count("<img ") == 3


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium: `apt install chromium`")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_every_picture(dataset: Path, tmp_path: Path, width: int) -> None:
    probe = """
      window.addEventListener("load", () => {
        const pictures = [...document.images], wide = document.documentElement.scrollWidth;
        const drawn = pictures.filter((each) => each.complete && each.naturalWidth === 8);
        document.title = `${drawn.length} of ${pictures.length}, ${wide > window.innerWidth}`;
      });
    """
    look = look_at(dataset)
    page = tmp_path / "page.html"
    page.write_text(render_data(look).replace("<body>", f"<body><script>{probe}</script>"))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000",
         f"--window-size={width},1000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    number = sum(len(part.shown) for part in look.parts)
    assert f"<title>{number} of {number}, false</title>" in done.stdout
