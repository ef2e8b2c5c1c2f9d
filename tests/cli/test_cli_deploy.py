"""``caffe-batch deploy``: real pycaffe reads what it writes, and gives the TEST net's scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import api, engines
from caffe_batch.deploying.folder import read_deployment
from caffe_batch.errors import InputError
from tests.command import call, tree
from tests.planned_jobs import CLASSES, NET, FinishedJob, write_job, write_lmdb


@pytest.fixture
def job(finished: FinishedJob, tmp_path: Path) -> Path:
    """A copy of a finished job, which a test may change."""
    return Path(shutil.copytree(finished.job.path, tmp_path / "the job"))


#: Run by real pycaffe: the scores of the TEST net, of its Softmax, and of the net for inference.
JUDGE = """
import sys, json, numpy as np, caffe
caffe.set_mode_cpu()
job, weights, folder, blob, text = sys.argv[1:]
test = caffe.Net(job, caffe.TEST, weights=weights)
test.forward()
scores = test.blobs[blob].data.astype(np.float64)
wanted = np.exp(scores - scores.max(1, keepdims=True))
wanted /= wanted.sum(1, keepdims=True)
net = caffe.Net(folder + "/deploy.prototxt", caffe.TEST, weights=folder + "/" + text)
data = test.blobs["data"].data
net.blobs["data"].reshape(*data.shape)
net.blobs["data"].data[...] = data
given = net.forward()
print(json.dumps([sorted(given), float(abs(given["prob"] - wanted).max()), list(net.blobs)]))
"""


@pytest.mark.parametrize("engine", engines.NAMES)
def test_real_caffe_gives_the_same_scores(
    engine: str, job: Path, tmp_path: Path, pycaffe: Callable[..., str]
) -> None:
    out = tmp_path / "the model"
    done = call("deploy", job, "--out", out, "--engine", engine, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["folder"] == str(out)
    assert {**json.loads((out / "deploy.json").read_text()), "folder": str(out)} == told
    assert told["check"]["engine"] == engine
    assert told["check"]["outputs"]["prob"]["samples"] == 10
    assert told["check"]["outputs"]["prob"]["largest_difference"] < 1e-6
    assert told["origin"]["update"] == 60
    weights = job / "snapshots" / "tiny_iter_60.caffemodel"
    assert (out / told["weights"]).read_bytes() == weights.read_bytes()
    net = str(job / "net.prototxt")
    found = pycaffe(JUDGE, net, str(weights), str(out), "ip2", told["weights"])
    names, difference, blobs = json.loads(found)
    assert names == ["prob"]
    assert blobs == ["data", "ip1", "ip2", "prob"]
    assert difference < 1e-6


def test_what_people_see(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = call("deploy", job, "--out", out)
    assert done.code == 0, done.err
    assert done.out.splitlines()[:3] == [
        f"{out}: deploy.prototxt, weights.caffemodel and deploy.json after 60 updates",
        "  input data: 1 x 1 x 5 x 7",
        "  output prob: 1 x 4, by the Softmax in place of the loss",
    ]
    assert "the same scores as the TEST net's on Caffe" in done.out
    assert "note: pictures are resized to 5 x 7, the size of the records" in done.err


def test_how_pictures_become_the_input(tmp_path: Path) -> None:
    data = write_lmdb(tmp_path / "data")
    transform = "transform_param { scale: 0.5 crop_size: 5 mean_value: 3 }"
    net = NET.replace(
        "transform_param {{ scale: 0.00390625 }}", transform.replace("{", "{{").replace("}", "}}")
    )
    job = write_job(tmp_path, max_iter=2, net=net.format(data=data, batch_size=6, width=8))
    api.Job(job.path).train(cpu=True)
    (found,) = api.deploy(job.path, tmp_path / "model").inputs
    assert found.shape == (1, 1, 5, 5)
    assert found.preprocessing is not None
    assert found.preprocessing.json() == {
        "channel_order": "gray", "channels": 1, "resize": [5, 7], "fit": "squash", "crop": 5,
        "mean_values": [3.0], "mean_file": None, "scale": 0.5,
    }  # fmt: skip
    assert read_deployment(tmp_path / "model").inputs == (found,)


def test_labels(job: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    done = call("deploy", job, "--out", tmp_path / "model", "--labels", names)
    assert done.code == 2
    assert f"there are 2 labels, and output 'prob' has {CLASSES} classes" in done.err
    names.write_text("Ü\nb c\n\td\n猫\n", encoding="utf-8")
    made = api.deploy(job, tmp_path / "model", labels=names, check=False)
    assert made.labels == ("Ü", "b c", "\td", "猫")
    assert (made.folder / "labels.txt").read_bytes() == names.read_bytes()
    assert made.check == {}


def test_bad_input_leaves_nothing(job: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    untrained = tmp_path / "untrained"
    shutil.copytree(job, untrained, ignore=shutil.ignore_patterns("snapshots", "job.json"))
    broken = tmp_path / "x_iter_60.caffemodel"
    broken.write_bytes(b"\xff" * 50)
    other = tmp_path / "other.caffemodel"
    other.write_bytes(b"")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((job, "--out", taken), "exists already"),
        ((untrained, "--out", tmp_path / "m"), "there is no snapshot, so nothing has been"),
        ((tmp_path, "--out", tmp_path / "m"), "there is no plan.json"),
        ((job, "--out", tmp_path / "m", "--snapshot", tmp_path / "none"), "no such file"),
        ((job, "--out", tmp_path / "m", "--snapshot", broken), str(broken)),
        ((job, "--out", tmp_path / "m", "--snapshot", other), str(other)),
        ((job, "--out", tmp_path / "m", "--labels", tmp_path / "none"), "can't be read"),
        ((job, "--out", tmp_path / "m", "--snapshot", broken, "--best"), "exclude each other"),
    ]  # fmt: skip
    before = tree(tmp_path)
    for arguments, message in cases:
        done = call("deploy", *arguments)
        assert (done.code, message in done.err) == (2, True), (arguments, done.err)
        assert tree(tmp_path) == before


def test_scores_that_differ_are_refused(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caffe_batch.api.deployments.TOLERANCE", -1.0)
    before = tree(tmp_path)
    done = call("deploy", job, "--out", tmp_path / "model")
    assert done.code == 4
    assert "output 'prob' of the net for inference differs from the TEST net's" in done.err
    assert tree(tmp_path) == before


def test_a_damaged_description(job: Path, tmp_path: Path) -> None:
    made = api.deploy(job, tmp_path / "model", check=False)
    path = made.folder / "deploy.json"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"format": 2}, "has format 2, and this version reads up to 1"),
        ({"net": "../net.prototxt"}, "is damaged"),
        ({"inputs": [{"name": 3}]}, "is damaged"),
        ({"labels": None}, "is damaged"),
    ):
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(InputError, match=message):
            read_deployment(made.folder)
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_deployment(made.folder)
