"""``caffe-batch test``: its counts are those of real pycaffe's scores over the whole set."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import caffe_batch as cb
from caffe_batch import engines
from tests.command import call, tree
from tests.planned_jobs import CLASSES, RECORDS, FinishedJob, write_job, write_lmdb

#: Run by real pycaffe: the scores and labels of a number of passes of a TEST net.
JUDGE = """
import sys, json, caffe
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], caffe.TEST, weights=sys.argv[2])
scores, labels, outputs = [], [], []
for _ in range(int(sys.argv[3])):
    given = net.forward()
    outputs.append([float(given[name]) for name in ("accuracy", "loss")])
    scores += net.blobs["ip2"].data.tolist()
    labels += net.blobs["label"].data.astype(int).tolist()
print(json.dumps([scores, labels, outputs]))
"""

PASSES = 7
WORST = 3


@pytest.fixture(scope="module")
def begun(caffes_runtime: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that has learned a little: it makes mistakes."""
    job = write_job(tmp_path_factory.mktemp("begun"), max_iter=9, base_lr=0.05, test_interval=3)
    cb.Job(job.path).train(cpu=True, engine="caffe")
    return job.path


@pytest.mark.parametrize("engine", engines.NAMES)
def test_the_counts_are_those_of_pycaffes_scores(
    engine: str, begun: Path, pycaffe: Callable[..., str]
) -> None:
    weights = begun / "snapshots" / "tiny_iter_9.caffemodel"
    net = str(begun / "net.prototxt")
    judged = json.loads(pycaffe(JUDGE, net, str(weights), str(PASSES)))
    scores, labels, outputs = (np.array(each) for each in judged)
    assert len(scores) == RECORDS
    found = call(
        "test", begun, "--json", "--engine", engine, "--worst", WORST, "--top", 1, "--top", 2
    )
    assert found.code == 0, found.err
    told = json.loads(found.out)
    guesses = scores.argmax(axis=1)
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, guesses), 1)
    assert told["confusion"] == confusion.tolist()
    assert 0 < np.trace(confusion) < RECORDS
    assert (told["samples"], told["counted"], told["outside"]) == (RECORDS, RECORDS, 0)
    assert told["accuracy"] == pytest.approx((guesses == labels).mean())
    second = (np.sort(scores)[:, -2] <= scores[np.arange(RECORDS), labels]).mean()
    assert told["top_k"] == {"1": told["accuracy"], "2": pytest.approx(second)}
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    losses = -np.log(exps / exps.sum(axis=1, keepdims=True))[np.arange(RECORDS), labels]
    assert told["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert list(told["outputs"].values()) == pytest.approx(outputs.mean(axis=0), rel=1e-5)
    wrong = [each for each in np.argsort(-losses, kind="stable") if guesses[each] != labels[each]]
    assert [each["record"] for each in told["mistakes"]] == wrong[:WORST]
    for each in told["mistakes"]:
        record = each["record"]
        assert each["name"] == f"{record:08d}"
        assert (each["label"], each["guess"]) == (labels[record], guesses[record])
        assert each["loss"] == pytest.approx(losses[record], rel=1e-5)
    for label, each in enumerate(told["classes"]):
        assert each["records"] == confusion[label].sum()
        assert each["recall"] == pytest.approx(confusion[label, label] / confusion[label].sum())


def test_what_people_see_and_the_page(begun: Path, tmp_path: Path) -> None:
    before = tree(begun)
    page, picture = tmp_path / "a page.html", tmp_path / "c.png"
    done = call("test", begun, "--page", page, "--confusion", picture)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == f"data            {RECORDS} samples"
    assert "label  class  records  recognised  precision" in done.out
    assert re.search(
        r"^\S+ was taken for \S+ in (1 record|[2-9] records|\d{2,} records)$",
        done.out,
        re.MULTILINE,
    )
    text = page.read_text()
    assert text.count("<figure>") == text.count('<img src="data:image/png;base64,') > 0
    assert "http" not in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert tree(begun) == before


def test_the_best_snapshot(begun: Path, tmp_path: Path) -> None:
    found = cb.test(begun, best=True, worst=0)
    assert found.chosen.update == 9
    assert found.chosen.score is not None
    assert found.chosen.score.output == "accuracy"
    assert found.outputs["accuracy"][0] == pytest.approx(found.chosen.score.value)


def test_other_data(begun: Path, tmp_path: Path) -> None:
    other = write_lmdb(tmp_path / "other")
    assert cb.test(begun, data=other).judged.samples == RECORDS  # type: ignore[union-attr]


def test_bad_input(begun: Path, finished: FinishedJob, tmp_path: Path) -> None:
    untrained = tmp_path / "untrained"
    shutil.copytree(begun, untrained, ignore=shutil.ignore_patterns("snapshots"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.txt").touch()
    data = tmp_path / "set"
    data.mkdir()
    write_lmdb(data / "train_lmdb")
    part = {"source": "train_lmdb", "records": RECORDS, "by_class": [RECORDS, 0, 0]}
    about = {
        "format": 1, "backend": "lmdb", "encoded": False, "shape": [1, 5, 7], "train": part,
        "labels": ["a", "b", "c"], "test": None, "mean_file": None, "mean_values": [1.0],
    }  # fmt: skip
    (data / "dataset.json").write_text(json.dumps(about))
    (data / "labels.txt").write_text("a\nb\nc\n")
    page = tmp_path / "none" / "page.html"
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((untrained,), 2, "there is no snapshot, so nothing has been trained yet"),
        ((tmp_path,), 2, "there is no plan.json"),
        ((begun, "--test-net", 3), 2, "has 1 test nets"),
        ((begun, "--data", tmp_path / "none"), 2, "no such file or folder"),
        ((begun, "--data", tmp_path / "folder"), 2, "folder"),
        ((begun, "--data", tmp_path / "list.txt"), 2, "isn't what layer 'data' of type Data reads"),
        ((begun, "--data", data), 2, "has 3 classes, and the net tells 4 apart"),
        ((begun, "--best", "--snapshot", "x"), 2, "exclude each other"),
        ((begun, "--page", page), 1, str(page)),
    ]  # fmt: skip
    before = tree(tmp_path)
    for arguments, code, message in cases:
        done = call("test", *arguments)
        assert (done.code, message in done.err) == (code, True), (arguments, done.code, done.err)
        assert tree(tmp_path) == before
