"""Whole conversions: the same whatever happens on the way, and never half of one."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_batch import api, files
from caffe_batch.datasets import conversion, filling, read_dataset, remarks, workers
from caffe_batch.datasets.conversion import Converted
from caffe_batch.datasets.sources import find_pictures
from caffe_batch.errors import InputError
from tests.command import spawn, tree
from tests.datasets.making import noise, pixels, read_lmdb, write_classes, write_digits

CLASSES = {"cat": 23, "dog": 17, "größe 名": 5}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "pictures", CLASSES)


def make(source: Path, out: Path, **options: Any) -> Converted:
    return api.data(source, out, **{"processes": 1, **options})


def test_digits(tmp_path: Path) -> None:
    """Every picture is in one of the sets, once, under its own label."""
    source = write_digits(tmp_path / "digits", most=500)
    made = make(source, tmp_path / "out", gray=True, seed=3)
    dataset = read_dataset(tmp_path / "out")
    assert dataset == made.dataset
    assert dataset.labels == tuple("0123456789")
    assert (tmp_path / "out" / "labels.txt").read_text() == "".join(f"{i}\n" for i in range(10))
    assert dataset.shape == (1, 8, 8)
    assert dataset.test is not None
    seen: dict[str, int] = {}
    for part in (dataset.train, dataset.test):
        records = read_lmdb(dataset.path(part.source))
        assert len(records) == part.records
        labels = [datum.label for _, datum in records]
        assert [labels.count(label) for label in range(10)] == list(part.by_class)
        for number, (key, datum) in enumerate(records):
            position, name = key.split("_", 1)
            assert int(position) == number
            assert name not in seen
            seen[name] = datum.label
            assert name.split("/")[0] == str(datum.label)
            assert (pixels(datum)[0] == np.asarray(Image.open(source / name))).all()
    assert len(seen) == 500
    shares = [
        Fraction(own, own + other)
        for own, other in zip(dataset.test.by_class, dataset.train.by_class, strict=True)
    ]
    assert all(Fraction(18, 100) < share < Fraction(22, 100) for share in shares)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.png", "dataset.json", "labels.txt", "mean.binaryproto", "test_lmdb", "train_lmdb",
    ]  # fmt: skip
    assert not (tmp_path / "out.unfinished").exists()


def test_the_same_seed_makes_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    made = [
        make(pictures, tmp_path / name, seed=seed, processes=processes)
        for name, seed, processes in (("one", 7, 1), ("two", 7, 2), ("three", 8, 1))
    ]
    one, two, three = (tree(each.dataset.folder) for each in made)
    assert one == two
    assert one["train_lmdb/data.mdb"] != three["train_lmdb/data.mdb"]
    assert one["labels.txt"] == three["labels.txt"]


def test_a_picture_that_is_added_moves_no_other(pictures: Path, tmp_path: Path) -> None:
    before = of_the_test_set(make(pictures, tmp_path / "one"))
    noise(999, 7, 7).save(pictures / "cat" / "new.png")
    after = of_the_test_set(make(pictures, tmp_path / "two"))
    assert len(before ^ after) <= 2


def of_the_test_set(made: Converted) -> set[str]:
    return {key.split("_", 1)[1] for key, _ in read_lmdb(made.dataset.folder / "test_lmdb")}


class Stop(BaseException):
    """Ends a conversion at a given moment."""


def stop_at(number: int) -> Callable[[str, int, int], None]:
    calls = iter(range(number))

    def progress(name: str, done: int, files: int) -> None:
        if next(calls, None) is None:
            raise Stop

    return progress


@pytest.mark.parametrize("at", [0, 1, 3, 5, 6])
def test_an_interrupted_conversion_goes_on(
    pictures: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "PORTION", 16)
    whole = make(pictures, tmp_path / "whole")
    with pytest.raises(Stop):
        make(pictures, tmp_path / "out", progress=stop_at(at))
    assert not (tmp_path / "out").exists()
    again = make(pictures, tmp_path / "out")
    assert again.resumed == {0: 0, 1: 0, 3: 16, 5: 32, 6: 36}[at]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert again.notes == whole.notes
    assert not (tmp_path / "out.unfinished").exists()


@pytest.mark.parametrize("where", ["the state", "the commit"])
def test_an_interruption_between_the_files_of_a_portion(
    pictures: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written before the records are, and takes effect after them."""
    monkeypatch.setattr(filling, "PORTION", 16)
    make(pictures, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, where)
        with pytest.raises(Stop):
            make(pictures, tmp_path / "out")
    again = make(pictures, tmp_path / "out")
    assert again.resumed == {"the state": 16, "the commit": 32}[where]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def stop_after(patch: pytest.MonkeyPatch, where: str) -> None:
    """Stop at the second portion, after its state or its records are written."""
    states = []
    write, rename = files.replace_bytes, Path.replace

    def written(path: Path, content: bytes) -> None:
        write(path, content)
        states.append(path)
        if where == "the state" and len(states) == 2:
            raise Stop

    def renamed(path: Path, target: Path) -> Path:
        if where == "the commit" and path.suffix == ".next" and len(states) == 2:
            raise Stop
        return rename(path, target)

    patch.setattr(filling, "replace_bytes", written)
    patch.setattr(Path, "replace", renamed)


KILLED = """
import os, signal, sys
from caffe_batch import api, files
from caffe_batch.datasets import filling
filling.PORTION = 16

def progress(name, done, files):
    if done == 24:
        os.kill(os.getpid(), signal.SIGKILL)

api.data(sys.argv[1], sys.argv[2], processes=2, progress=progress)
"""


def test_a_killed_conversion_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = spawn(sys.executable, "-c", KILLED, pictures, tmp_path / "out")
    assert done.code == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(filling, "PORTION", 16)
    again = make(pictures, tmp_path / "out")
    assert again.resumed == 16
    make(pictures, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("what", ["journal emptied", "journal gone", "database damaged"])
def test_what_an_interruption_left_may_be_damaged(
    what: str, pictures: Path, tmp_path: Path
) -> None:
    """It is named, with the folder to remove; nothing is made of it."""
    assert spawn(sys.executable, "-c", KILLED, pictures, tmp_path / "out").code < 0
    unfinished = tmp_path / "out.unfinished"
    (journal,) = unfinished.rglob("train*journal*")
    (database,) = (path for path in unfinished.rglob("data.mdb") if "train" in str(path))
    if what == "journal gone":
        journal.unlink()
    elif what == "journal emptied":
        journal.write_text("")
    else:
        database.write_bytes(b"\0" * 8192)
    with pytest.raises(OSError, match=f"is damaged; remove {unfinished} and start again"):
        make(pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_pictures_or_settings_dont_go_on(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        make(pictures, tmp_path / "out", progress=stop_at(3))
    before = tree(tmp_path / "out.unfinished")
    with pytest.raises(InputError, match="is of another conversion"):
        make(pictures, tmp_path / "out", gray=True)
    noise(999, 7, 7).save(pictures / "cat" / "new.png")
    with pytest.raises(InputError, match="is of another conversion"):
        make(pictures, tmp_path / "out")
    assert tree(tmp_path / "out.unfinished") == before


def test_two_at_once(pictures: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(name: str, done: int, files: int) -> None:
        if not refused:
            with pytest.raises(InputError, match="another process is making") as error:
                make(pictures, tmp_path / "out")
            refused.append(str(error.value))

    make(pictures, tmp_path / "out", progress=second)
    assert refused
    assert read_dataset(tmp_path / "out").train.records == 36


LIMITED = """
import resource, shutil, signal, sys
from collections import namedtuple
from caffe_batch.cli.main import main
shutil.disk_usage = lambda path: namedtuple("usage", "total used free")(1, 1, 0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main(["data", sys.argv[1], "--out", sys.argv[2], "--resize", "64"])
"""


def test_a_disk_that_takes_no_more(pictures: Path, tmp_path: Path) -> None:
    """A limit cuts a write of LMDB off, as a full disk does."""
    done = spawn(sys.executable, "-c", LIMITED, pictures, tmp_path / "out")
    assert done.code == 1
    assert "Traceback" not in done.err
    full = f"caffe-batch: {tmp_path / 'out.unfinished/set/train_lmdb'}: {os.strerror(errno.ENOSPC)}"
    assert full in done.err
    assert "Free some space there, then run the command again." in done.err
    assert not (tmp_path / "out").exists()
    assert make(pictures, tmp_path / "out", resize=64).dataset.train.records == 36


def test_damaged_files_are_set_aside_and_named(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "cat" / "0.png").read_bytes()
    (pictures / "cat" / "cut off.png").write_bytes(whole[: len(whole) // 2])
    noise(5, 40, 40).save(pictures / "cat" / "whole.jpg")
    jpeg = (pictures / "cat" / "whole.jpg").read_bytes()
    (pictures / "cat" / "cut off.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (pictures / "dog" / "empty.png").touch()
    (pictures / "dog" / "text\nof two lines.png").write_text("no picture")
    os.mkfifo(pictures / "dog" / "pipe.png")
    (pictures / "dog" / "dangling.png").symlink_to("nothing")
    made = make(pictures, tmp_path / "out", resize=7)
    reasons = dict(made.set_aside)
    assert set(reasons) == {
        "cat/cut off.png", "cat/cut off.jpg", "dog/empty.png", "dog/text\nof two lines.png",
        "dog/pipe.png", "dog/dangling.png",
    }  # fmt: skip
    assert "runcated" in reasons["cat/cut off.jpg"]
    assert reasons["dog/empty.png"] == "an empty file"
    assert reasons["dog/text\nof two lines.png"] == "not an image file"
    assert made.dataset.set_aside == 6
    with (tmp_path / "out" / "set_aside.csv").open(newline="") as file:
        assert {row["file"]: row["reason"] for row in csv.DictReader(file)} == reasons
    dataset = made.dataset
    assert dataset.test is not None
    assert dataset.train.records + dataset.test.records == sum(CLASSES.values()) + 1
    assert any("can't be used: 6 (" in note for note in made.notes)


DEADLY = """
import os, sys
sys.path[:] = sys.argv[1:]
from caffe_batch.datasets import pictures, records, workers
records.decoded = lambda data, **options: (
    os._exit(9) if data == b"DEADLY" else pictures.decoded(data, **options)
)
workers.serve()
"""


def test_a_decoder_that_dies_takes_one_file_with_it(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(pictures, tmp_path / "whole", test_share=0)
    (pictures / "cat" / "deadly.png").write_bytes(b"DEADLY")
    monkeypatch.setattr(workers, "_START", DEADLY)
    made = make(pictures, tmp_path / "out", processes=2, test_share=0)
    assert made.set_aside == (("cat/deadly.png", "damaged (its decoder crashes)"),)
    assert made.dataset.train.by_class == tuple(CLASSES.values())
    mean = "mean.binaryproto"
    assert (tmp_path / "out" / mean).read_bytes() == (tmp_path / "whole" / mean).read_bytes()


def test_duplicates_between_the_sets(tmp_path: Path) -> None:
    """By their pixels: another format and another name don't hide them."""
    write_classes(tmp_path / "set" / "train", {"a": 3, "b": 3})
    (tmp_path / "set" / "val" / "a").mkdir(parents=True)
    (tmp_path / "set" / "val" / "b").mkdir()
    same = Image.open(tmp_path / "set" / "train" / "a" / "1.png")
    same.save(tmp_path / "set" / "val" / "a" / "other name.bmp")
    noise(77, 7, 7).save(tmp_path / "set" / "val" / "b" / "new.png")
    made = make(tmp_path / "set", tmp_path / "out")
    assert made.duplicates == (("a/other name.bmp", "a/1.png"),)
    assert (
        tmp_path / "out" / "duplicates.csv"
    ).read_text() == "test,train\na/other name.bmp,a/1.png\n"
    assert any("still in the test set: 1 (a/other name.bmp = a/1.png)" in n for n in made.notes)
    assert made.dataset.test is not None
    assert made.dataset.test.by_class == (1, 1)
    dropped = make(tmp_path / "set", tmp_path / "dropped", drop_duplicates=True)
    assert dropped.dataset.test is not None
    assert dropped.dataset.test.by_class == (0, 1)
    assert [key for key, _ in read_lmdb(tmp_path / "dropped" / "test_lmdb")] == [
        "00000001_b/new.png"
    ]


def test_names_of_all_kinds(pictures: Path, tmp_path: Path) -> None:
    """Line breaks, bytes that are no text, and paths that are longer than a key of LMDB."""
    deep = pictures / "cat" / ("x" * 250) / ("y" * 250)
    deep.mkdir(parents=True)
    noise(70, 7, 7).save(deep / "deep.png")
    noise(71, 7, 7).save(pictures / "dog" / "two\nlines $x_1$ \x1b[31m.png")
    odd = os.fsencode(pictures) + b"/\xff class"
    os.mkdir(odd)
    for number in range(2):
        name = b"/\xfe%d.png" % number
        noise(80 + number, 7, 7).save(os.fsdecode(odd + name))
    (pictures / "dog" / "broken,\n.png").write_text("no picture")
    made = make(pictures, tmp_path / "out", test_share=0)
    assert made.dataset.classes == 4
    names = (tmp_path / "out" / "labels.txt").read_bytes().split(b"\n")[:-1]
    assert names == [b"cat", b"dog", "größe 名".encode(), b"\xff class"]
    keys = [os.fsencode(key) for key, _ in read_lmdb(tmp_path / "out" / "train_lmdb")]
    assert len(keys) == sum(CLASSES.values()) + 4
    assert max(map(len, keys)) == 511
    assert {key[9:] for key in keys if key[9:].startswith(b"\xff")} == {
        b"\xff class/\xfe0.png", b"\xff class/\xfe1.png",
    }  # fmt: skip
    with (tmp_path / "out" / "set_aside.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["dog/broken,\n.png"]
    (part,) = api.data_info(tmp_path / "out", page=tmp_path / "page.html").parts
    assert part.records == len(keys)
    assert b"\x1b" not in (tmp_path / "page.html").read_bytes()


def test_equal_pictures_of_two_classes_are_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "dog" / "cat.png").write_bytes((pictures / "cat" / "3.png").read_bytes())
    made = make(pictures, tmp_path / "out", test_share=0)
    assert any("equal one of another class: 1 (" in note for note in made.notes)


def test_what_is_odd_about_pictures_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "pictures", {"a": 4, "b": 4})
    frames = [noise(number, 7, 7) for number in range(2)]
    frames[0].save(tmp_path / "pictures" / "a" / "x.gif", save_all=True, append_images=frames[1:])
    noise(9, 1, 1).save(tmp_path / "pictures" / "a" / "one pixel.png")
    made = make(tmp_path / "pictures", tmp_path / "out", resize="5", test_share=0)
    notes = " ".join(made.notes)
    assert (
        "With several pictures (animations, pages), of which the first is kept: 1 (a/x.gif)"
        in notes
    )
    assert "from 1 x 1 (a/one pixel.png) to 7 x 7" in notes
    assert made.dataset.train.records == 10


def test_a_huge_picture_is_set_aside_without_being_decoded(tmp_path: Path) -> None:
    write_classes(tmp_path / "pictures", {"a": 3, "b": 3})
    Image.new("1", (20_000, 20_000)).save(tmp_path / "pictures" / "a" / "huge.png")
    made = make(tmp_path / "pictures", tmp_path / "out", resize="5", test_share=0)
    assert made.set_aside[0][0] == "a/huge.png"
    assert made.set_aside[0][1].startswith("too large: ")


def test_gray_pictures_are_pointed_out(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", most=60)
    made = make(tmp_path / "digits", tmp_path / "out", test_share=0)
    assert made.dataset.shape == (3, 8, 8)
    assert any("All pictures are gray" in note for note in made.notes)
    assert make(tmp_path / "digits", tmp_path / "gray", test_share=0, gray=True).notes == ()


@pytest.mark.parametrize(
    ("fit", "expected"),
    [("squash", (8, 255, 255)), ("crop", (8, 255, 255)), ("pad", (4, 255, 0))],
)
def test_proportions(tmp_path: Path, fit: str, expected: tuple[int, int, int]) -> None:
    """A white picture twice as wide as high: how many rows of the square are white."""
    write_classes(tmp_path / "pictures", {"a": 1})
    Image.new("RGB", (40, 20), "white").save(tmp_path / "pictures" / "a" / "0.png")
    make(
        tmp_path / "pictures", tmp_path / "out", resize=8, fit=fit, test_share=0,
        allow_one_class=True,
    )  # fmt: skip
    values = pixels(read_lmdb(tmp_path / "out" / "train_lmdb")[0][1])
    rows, middle, top = expected
    assert values.shape == (3, 8, 8)
    assert (values == 255).all(axis=(0, 2)).sum() == rows
    assert values[0, 4, 4] == middle
    assert values[0, 0, 0] == top


def test_without_opencv_pillow_resizes_and_that_is_told(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_batch.datasets import pictures as reading

    monkeypatch.setattr(reading, "opencv", lambda: None)
    for module in (conversion, remarks):
        monkeypatch.setattr(module, "opencv", lambda: None)
    made = make(pictures, tmp_path / "out", resize="4x5")
    assert made.dataset.resized_by == "pillow"
    assert made.dataset.shape == (3, 4, 5)
    assert any("OpenCV isn't installed" in note for note in made.notes)


def test_a_description_that_is_damaged_or_newer(pictures: Path, tmp_path: Path) -> None:
    make(pictures, tmp_path / "out")
    path = tmp_path / "out" / "dataset.json"
    found = json.loads(path.read_text())
    for change, problem in (
        ({"format": 2}, "has format 2, and this version reads up to 1"),
        ({"labels": "cat"}, "'labels' is missing or has the wrong type"),
        ({"mean_file": "../mean"}, "'mean_file' doesn't name something in its folder"),
        ({"shape": [3, 0, 7]}, "'shape' is no channels, height and width"),
    ):
        path.write_text(json.dumps({**found, **change}))
        with pytest.raises(InputError, match=problem):
            read_dataset(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_dataset(tmp_path / "out")
    path.write_text(json.dumps({**found, "new": 1}))
    assert read_dataset(tmp_path / "out").classes == 3


def test_a_class_that_only_the_test_set_has(tmp_path: Path) -> None:
    write_classes(tmp_path / "set" / "train", {"a": 3, "b": 3})
    write_classes(tmp_path / "set" / "test", {"a": 1, "c": 1})
    with pytest.raises(InputError, match="the class 'c' has no picture in the training set"):
        make(tmp_path / "set", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert find_pictures(tmp_path / "set").classes == ("a", "b", "c")
