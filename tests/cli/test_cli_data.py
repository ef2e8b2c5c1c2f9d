"""``caffe-batch data``: what it prints, and that the other commands read what it makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.command import PROGRAM, call, spawn, tree
from tests.datasets.making import noise, write_classes, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "pictures", most=300)
    done = call("data", folder / "pictures", "--out", folder / "set", "--gray")
    assert done.code == 0
    return folder


def test_the_table_and_the_sentences(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "pictures", {"cat": 5, "[bold]dog\x1b[31m": 10})
    (source / "cat" / "broken.png").write_text("no picture")
    done = call("data", "create", source, "--out", tmp_path / "set", "--processes", 1)
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[:4] == [
        "label class train test", "0 [bold]dog\\u001b[31m 8 2", "1 cat 4 1", "all 12 3",
    ]  # fmt: skip
    assert lines[4] == "Each record is 3 x 7 x 7 pixels (blue, green and red)."
    assert lines[5].startswith("Mean of the training set: ")
    assert lines[-1].endswith("dataset.json describes them, classes.png shows the classes.")
    assert (
        "note: Set aside, since they can't be used: 1 ('cat/broken.png': not an image" in done.err
    )
    assert (tmp_path / "set" / "classes.png").read_bytes().startswith(b"\x89PNG")


def test_json(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "pictures", {"cat": 5, "dog": 10})
    done = call("data", source, "--out", tmp_path / "set", "--json", "--test-share", "40%")
    found = json.loads(done.out)
    assert found["dataset"] == json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert found["dataset"]["train"] == {"source": "train_lmdb", "records": 9, "by_class": [3, 6]}
    assert found["dataset"]["settings"]["test_share"] == 0.4
    assert (found["set_aside"], found["duplicates"], found["resumed"]) == ([], [], 0)


def test_many_classes(tmp_path: Path) -> None:
    """The table shows the largest and the smallest classes, the picture curves."""
    source = write_classes(tmp_path / "pictures", {f"{n:02}": 1 + (n == 7) for n in range(70)}, 2)
    done = call("data", source, "--out", tmp_path / "set", "--test-share", 0)
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[1] == "7 07 2"
    assert "... 30 more ..." in lines
    assert (tmp_path / "set" / "classes.png").is_file()


def test_memory_and_plan_read_it(digits: Path) -> None:
    """And `plan --check-data` finds nothing wrong with any record."""
    net = digits / "net.prototxt"
    sets = [f"source_{name}={digits / 'set' / f'{name}_lmdb'}" for name in ("train", "test")]
    mean = f"mean_file={digits / 'set' / 'mean.binaryproto'}"
    define = [word for each in (*sets, mean) for word in ("-D", each)]
    assert call("render", "lenet_digits", *define, "-o", net).code == 0
    found = json.loads(call("memory", net, "--json").out)
    assert found["blobs"]["data"] == [found["batch_size"], 1, 8, 8]
    done = call(
        "plan", net, "--gpu-memory", "1GiB", "--effective-batch", 64, "--check-data", "--json"
    )
    assert done.code == 0
    plan = json.loads(done.out)
    assert plan["data"]["findings"] == []
    assert "warning" not in done.err


@pytest.mark.parametrize("missing", ["PIL", "numpy"])
def test_without_the_extra(tmp_path: Path, missing: str) -> None:
    source = write_classes(tmp_path / "pictures", {"cat": 2, "dog": 2})
    before = tree(tmp_path)
    blocked = (
        f"import sys; sys.modules[{missing!r}] = None; from caffe_batch.cli.main import main; "
        f"main(['data', {str(source)!r}, '--out', {str(tmp_path / 'set')!r}])"
    )
    done = spawn(sys.executable, "-c", blocked)
    assert done.code == 2
    assert "Install it: pip install 'caffe-batch[data]'." in done.err
    assert "Traceback" not in done.err
    assert tree(tmp_path) == before


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_classes(tmp_path / "one", {"cat": 2})
    write_classes(tmp_path / "sizes", {"cat": 2, "dog": 2})
    noise(7, 8, 9).save(tmp_path / "sizes" / "cat" / "other.png")
    (tmp_path / "list.txt").write_text("gone.png 0\n")
    before = tree(tmp_path)
    for source, told in (
        ("empty", "has no classes: it is empty"),
        ("one", "has only one class, 'cat'"),
        ("sizes", "the pictures differ in size"),
        ("list.txt", "1 can't be found; the first is"),
        ("nothing", "no such file"),
    ):
        done = spawn(PROGRAM, "data", tmp_path / source, "--out", tmp_path / "set")
        assert done.code == 2
        assert told in done.err
        assert "Traceback" not in done.err
        assert tree(tmp_path) == before


def test_an_unreadable_disk_for_the_picture_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set is whole, whatever happens to the picture of its classes."""
    from caffe_batch.api import datasets

    def full(dataset: object, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(datasets, "draw_classes", full)
    source = write_classes(tmp_path / "pictures", {"cat": 5, "dog": 10})
    done = call("data", source, "--out", tmp_path / "set")
    assert done.code == 0
    assert "note: no classes.png: " in done.err
    assert done.out.splitlines()[-1].endswith("dataset.json describes them.")
