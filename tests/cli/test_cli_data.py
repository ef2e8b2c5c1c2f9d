"""``caffe-batch data``: what it prints, and that the other commands read what it makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from caffe_batch import prototxt
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
    assert lines[4] == "The records are pixels, 3 x 7 x 7 (blue, green and red)."
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
    assert call("render", "lenet_digits", "--data", digits / "set", "-o", net).code == 0
    found = json.loads(call("memory", net, "--json").out)
    assert found["blobs"]["data"] == [found["batch_size"], 1, 8, 8]
    done = call(
        "plan", net, "--gpu-memory", "1GiB", "--effective-batch", 64, "--check-data", "--json"
    )
    assert done.code == 0
    plan = json.loads(done.out)
    assert plan["data"]["findings"] == []
    assert "warning" not in done.err


def test_a_template_gets_sources_classes_means_and_crop(digits: Path) -> None:
    mean = json.loads((digits / "set" / "dataset.json").read_text())["mean_values"][0]
    text = call("render", "resnet50", "--data", digits / "set", "-D", "mirror=false").out
    net = prototxt.parse_net(text)
    train, test = net.layer[:2]
    assert train.data_param.source == str(digits / "set" / "train_lmdb")
    assert test.data_param.source == str(digits / "set" / "test_lmdb")
    assert list(train.transform_param.mean_value) == pytest.approx([mean], abs=1e-4)
    assert train.transform_param.crop_size == 8  # the template's own 224 is larger than a record
    assert not train.transform_param.mirror
    assert [own.inner_product_param.num_output for own in net.layer if own.name == "fc10"] == [10]
    own = call("render", "resnet50", "--data", digits / "set", "-D", "num_classes=12").out
    assert 'name: "fc12"' in own


def test_a_crop_that_fits_stays(tmp_path: Path) -> None:
    source = write_classes(tmp_path / "pictures", {"cat": 2, "dog": 2})
    assert call("data", source, "--out", tmp_path / "set", "--resize", "240x230").code == 0
    text = call("render", "caffenet", "--data", tmp_path / "set").out
    transform = prototxt.parse_net(text).layer[0].transform_param
    assert transform.crop_size == 227
    assert len(transform.mean_value) == 3


def test_plan_and_train_take_a_data_set(digits: Path, tmp_path: Path) -> None:
    """On real Caffe, to the end."""
    options = ["--effective-batch", 48, "--gpu-memory", "600MiB", "--reserve", 0]
    done = call("plan", "lenet_digits", "--data", digits / "set", *options)
    assert done.code == 0
    assert "for what" in done.err
    assert "num_classes 10" in done.err
    job = tmp_path / "job"
    done = call(
        "train", "lenet_digits", "--data", digits / "set", *options, "--epochs", 4,
        "--out", job, "--cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Finished: 20 of 20 updates." in done.out + done.err
    assert json.loads((job / "plan.json").read_text())["effective_batch"] == 48


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "net.prototxt", "--gpu-memory", "1GiB"], "is for templates, and net.prototxt"),
        (["memory", "net.prototxt"], "is for templates, and net.prototxt isn't one"),
        (["render", "unet"], "template unet learns from something else: U-Net"),
        (["memory", "mlp"], "template mlp learns from something else: Multilayer"),
        (["render", "siamese"], "template siamese learns from something else: Siamese"),
        (["render", "solver"], "template solver learns from something else: Solver"),
    ],
)
def test_data_for_what_takes_none(
    digits: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    done = call(*words, "--data", digits / "set")
    assert done.code == 2
    assert message in done.err


def test_places_that_no_data_set_can_have(digits: Path, tmp_path: Path) -> None:
    """Inside the pictures it would be a class the next time; the working directory stays."""
    pictures = digits / "pictures"
    before = tree(pictures)
    done = call("data", pictures, "--out", pictures / "set")
    assert done.code == 2
    assert f"{pictures / 'set'} lies in {pictures}" in done.err
    (tmp_path / "here").mkdir()
    done = spawn(PROGRAM, "data", pictures, "--out", ".", cwd=tmp_path / "here")
    assert done.code == 2
    assert done.err.startswith("caffe-batch: . is the working directory")
    assert (tree(pictures), tree(tmp_path / "here")) == (before, {})


def test_names_of_the_classes_may_begin_with_a_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    source = write_classes(tmp_path / "pictures", {"cat": 2, "dog": 2})
    (tmp_path / "labels").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    given = ("--out", tmp_path / "set", "--labels", tmp_path / "labels")
    assert call("data", source, *given).code == 0
    assert (tmp_path / "set" / "labels.txt").read_text() == "cat\ndog\n"


def test_as_is_takes_a_data_set(digits: Path, tmp_path: Path) -> None:
    """On real Caffe, with the recipe of the template: stopped by a loss that is too large."""
    given = ("--as-is", "--data", digits / "set", "--out", tmp_path / "job", "--cpu")
    done = call("train", "lenet_digits", *given, "--max-loss", 1e-9)
    assert done.code == 4
    assert "diverged: " in done.err
    net = prototxt.read_net(tmp_path / "job" / "net.prototxt")
    assert net.layer[0].data_param.source == str(digits / "set" / "train_lmdb")


def test_data_sets_that_a_template_cant_use(tmp_path: Path) -> None:
    done = call("memory", "lenet_digits", "--data", tmp_path)
    assert done.code == 2
    assert f"{tmp_path} is no data set" in done.err
    source = write_classes(tmp_path / "pictures", {"cat": 2, "dog": 2})
    assert call("data", source, "--out", tmp_path / "set", "--test-share", 0).code == 0
    done = call("memory", "lenet_digits", "--data", tmp_path / "set")
    assert done.code == 2
    assert "has no test set, and template lenet_digits reads one" in done.err


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


def test_a_picture_that_cant_be_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set is whole, whatever happens to the picture of its classes."""
    from caffe_batch.reporting import data_view

    def full(dataset: object, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(data_view, "draw_classes", full)
    source = write_classes(tmp_path / "pictures", {"cat": 5, "dog": 10})
    done = call("data", source, "--out", tmp_path / "set")
    assert done.code == 0
    assert "note: no classes.png: " in done.err
    assert done.out.splitlines()[-1].endswith("dataset.json describes them.")
