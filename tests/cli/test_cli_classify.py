"""``caffe-batch classify``: the answers are those of real pycaffe for the same pictures."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_batch as cb
from caffe_batch import engines
from tests.command import call, tree
from tests.planned_jobs import HEIGHT, NET, WIDTH, FinishedJob, write_job

h5py = pytest.importorskip("h5py")

#: Run by real pycaffe: the probabilities of the pixels in a file, through deploy.prototxt.
JUDGE = """
import sys, json, numpy as np, caffe
caffe.set_mode_cpu()
folder, pixels = sys.argv[1:]
net = caffe.Net(folder + "/deploy.prototxt", caffe.TEST, weights=folder + "/weights.caffemodel")
data = np.load(pixels)
net.blobs["data"].reshape(*data.shape)
net.blobs["data"].data[...] = data * np.float32(0.00390625)
given = net.forward(blobs=["ip1"])
print(json.dumps({name: values.tolist() for name, values in given.items()}))
"""


def picture(path: Path, row: int, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A gray picture with one bright row, as the training had them."""
    pixels = np.full(size, 40, np.uint8)
    pixels[row] = 200 + row
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture(scope="session")
def model(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net for inference of a finished job."""
    folder = tmp_path_factory.mktemp("classify")
    names = folder / "names.txt"
    names.write_text("top\nsecond\nthird\nünder it\n", encoding="utf-8")
    return cb.deploy(finished.job.path, folder / "model", labels=names, check=False).folder


@pytest.mark.parametrize("engine", engines.NAMES)
def test_the_answers_are_pycaffes(
    engine: str, model: Path, tmp_path: Path, pycaffe: Callable[..., str]
) -> None:
    pictures = [tmp_path / f"row {row}\n{'猫' * row}.png" for row in range(4)]
    pixels = [picture(path, row) for row, path in enumerate(pictures)]
    np.save(tmp_path / "pixels.npy", np.array(pixels, np.float32)[:, None])
    wanted = json.loads(pycaffe(JUDGE, str(model), str(tmp_path / "pixels.npy")))
    done = call(
        "classify", model, *pictures, "--json", "--engine", engine, "--batch-size", 3, "--top", 2
    )
    assert done.code == 0, done.err
    for row, (path, told) in enumerate(zip(pictures, json.loads(done.out), strict=True)):
        assert (told["picture"], told["problem"]) == (str(path), None)
        first, second = told["classes"]["prob"]
        scores = wanted["prob"][row]
        assert first["label"] == int(np.argmax(scores))
        assert first["name"] == ["top", "second", "third", "ünder it"][first["label"]]
        assert first["score"] == pytest.approx(max(scores), abs=1e-6)
        assert second["score"] == pytest.approx(sorted(scores)[-2], abs=1e-6)


def test_features_and_a_folder(model: Path, tmp_path: Path, pycaffe: Callable[..., str]) -> None:
    folder = tmp_path / "pictures"
    (folder / "inside").mkdir(parents=True)
    pixels = [picture(folder / "a.png", 2), picture(folder / "inside" / "b.png", 0)]
    np.save(tmp_path / "pixels.npy", np.array(pixels, np.float32)[:, None])
    wanted = json.loads(pycaffe(JUDGE, str(model), str(tmp_path / "pixels.npy")))
    done = call("classify", model, folder, "--blob", "ip1", "--out", tmp_path / "f.h5")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "f.h5") as file:
        assert sorted(file) == ["ip1", "pictures"]
        assert file["ip1"][:] == pytest.approx(np.array(wanted["ip1"]), abs=1e-6)
        names = [os.fsdecode(name) for name in file["pictures"][:]]
    assert names == [str(folder / "a.png"), str(folder / "inside" / "b.png")]


def test_what_people_see(model: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    done = call("classify", model, tmp_path / "a.png", "--top", 1)
    assert done.code == 0, done.err
    name, line = done.out.splitlines()
    assert name == str(tmp_path / "a.png")
    assert line.endswith(" %  second")
    assert "█" in line


def test_odd_pictures(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow and the net can use is used; the rest is named, and the others are answered."""
    monkeypatch.setattr("caffe_batch.datasets.pictures.MOST_PIXELS", 90_000)
    Image.new("CMYK", (9, 9)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
    frames = [Image.new("P", (4, 4), each) for each in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    Image.new("L", (301, 300)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    whole = (tmp_path / "deep.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    done = call("classify", model, tmp_path, "--json")
    assert done.code == 2
    told = {Path(each["picture"]).name: each["problem"] for each in json.loads(done.out)}
    assert [name for name, problem in told.items() if problem is None] == [
        "cmyk.jpg", "deep.png", "dot.png", "moving.gif",
    ]  # fmt: skip
    assert told["huge.png"] == "too large: 301 x 300 pixels; 90,000 are the most"
    assert told["text.png"] == "not an image file"
    assert told["empty.png"] == "an empty file"
    assert "cut.png: " in done.err
    assert "and 3 more pictures" in done.err


def test_stdin(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a b.png", 1)
    picture(tmp_path / "c\nd.png", 2)
    names = [os.fsencode(tmp_path / "a b.png"), os.fsencode(tmp_path / "c\nd.png")]
    for data, wanted in (
        (names[0] + b"\n", [os.fsdecode(names[0])]),
        (b"\0".join(names) + b"\0", list(map(os.fsdecode, names))),
        ((tmp_path / "a b.png").read_bytes(), ["-"]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        done = call("classify", model, "-", "--json")
        assert done.code == 0, done.err
        assert [each["picture"] for each in json.loads(done.out)] == wanted


def test_masks(tmp_path: Path) -> None:
    """A net whose second class is the bright places: its mask is the picture, in two colours."""
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "deploy.prototxt").write_text(
        """
        layer { name: "data" type: "Input" top: "data"
          input_param { shape { dim: 1 dim: 3 dim: 5 dim: 7 } } }
        layer { name: "score" type: "Convolution" bottom: "data" top: "score"
          convolution_param { num_output: 2 kernel_size: 1 } }
        layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
        """
    )
    from caffe_batch import prototxt

    weights = prototxt.parse_net((folder / "deploy.prototxt").read_text())
    for shape, numbers in (((2, 3, 1, 1), [0, 0, 0, 1, 1, 1]), ((2,), [0, 0])):
        blob = weights.layer[1].blobs.add()
        blob.shape.dim.extend(shape)
        blob.data.extend(map(float, numbers))
    (folder / "weights.caffemodel").write_bytes(weights.SerializeToString())
    given = {
        "name": "data", "shape": [1, 3, 5, 7], "why_not": "",
        "preprocessing": {"channels": 3, "resize": None, "fit": "squash", "crop": None,
                          "mean_values": [128], "mean_file": None, "scale": 0.01},
    }  # fmt: skip
    output = {
        "name": "prob", "shape": [1, 2, 5, 7], "classes": True, "probabilities": True,
        "made_by": "Softmax", "source": "score",
    }  # fmt: skip
    description = {
        "format": 1, "net": "deploy.prototxt", "weights": "weights.caffemodel",
        "labels": ["dark", "bright"], "inputs": [given], "outputs": [output],
    }  # fmt: skip
    (folder / "deploy.json").write_text(json.dumps(description))
    sizes = [(5, 7), (11, 3)]
    pixels = []
    for number, size in enumerate(sizes):
        values = np.random.default_rng(number).integers(0, 2, size).astype(np.uint8) * 255
        pixels.append(values)
        (tmp_path / str(number)).mkdir()
        Image.fromarray(values).save(tmp_path / str(number) / "a.png")
    paths = [tmp_path / str(number) / "a.png" for number in range(2)]
    done = call("classify", folder, *paths, "--masks", tmp_path / "masks", "--json")
    assert done.code == 0, done.err
    for values, told, name in zip(pixels, json.loads(done.out), ("a.png", "a_2.png"), strict=True):
        assert told["mask"] == str(tmp_path / "masks" / name)
        with Image.open(told["mask"]) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), values // 255)
        bright = next(each for each in told["classes"]["prob"] if each["name"] == "bright")
        assert bright["score"] == pytest.approx(values.mean() / 255)


def test_bad_input_leaves_nothing(model: Path, finished: FinishedJob, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "nothing").mkdir()
    a, f = tmp_path / "a.png", tmp_path / "f.h5"
    untrained = write_job(
        tmp_path / "nothing" / "..", net=NET.format(data=tmp_path, batch_size=6, width=8)
    )
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path, a), "is neither a job nor a folder that"),
        ((untrained.path, a), "there is no snapshot, so nothing has been"),
        ((model, tmp_path / "nothing"), "there is no picture in this folder"),
        ((model, tmp_path / "none.png"), "no such file"),
        ((model, a, "--blob", "ip3", "--out", f), "the net has no blob 'ip3'"),
        ((model, a, "--blob", "ip1"), "--out FILE.h5 go together"),
        ((model, a, "--masks", tmp_path / "m"), "the net classifies a whole picture, not"),
        ((model, a, "--best"), "has its weights already"),
    ]  # fmt: skip
    before = tree(tmp_path)
    for arguments, message in cases:
        done = call("classify", *arguments)
        assert done.code == 2, (arguments, done.err)
        assert message.casefold() in done.err.casefold(), (arguments, done.err)
        assert tree(tmp_path) == before


def test_a_job_itself(finished: FinishedJob, tmp_path: Path) -> None:
    job = shutil.copytree(finished.job.path, tmp_path / "job")
    picture(tmp_path / "a.png", 1)
    before = tree(tmp_path)
    found = cb.classify(job, tmp_path / "a.png", best=True, cpu=True)
    ((output, classes, shares),) = found.guesses(found.answers[0])
    assert (output, shares, len(classes)) == ("prob", True, 4)
    assert sum(each.score for each in classes) == pytest.approx(1, abs=1e-6)
    assert tree(tmp_path) == before
