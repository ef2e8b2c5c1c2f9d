"""``caffe-batch verify``, called as a user or another program calls it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.experiments import verify
from tests.command import call
from tests.experiments.measuring import INPUT, LOSS, SOLVER, forked, inner_product


@pytest.fixture(autouse=True)
def quick(pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verify, "_run_worker", forked(pycaffe))
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(INPUT + inner_product() + LOSS)
    Path("clip.prototxt").write_text(f'{SOLVER} net: "net.prototxt" clip_gradients: 0.01')


def test_the_verdict_comes_first_and_each_parameter_has_a_row() -> None:
    done = call("verify", "clip.prototxt")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("The same training: batch_size 4 x iter_size 3 and batch_size 12 ")
    rows = [line.split() for line in done.out.splitlines() if line.startswith("ip[")]
    assert [row[:2] for row in rows] == [["ip[0]", "4x231"], ["ip[1]", "4"]]
    assert [row[3] for row in rows] == ["6.7e-01", "6.7e-01"]  # clipped without the change
    assert all(float(row[2]) < 1e-5 and float(row[4]) < 1e-5 for row in rows)
    assert "smoothed loss: " in done.out
    assert (
        "note: samples of layer 'in': made up, as a program gives an Input layer its data"
        in done.out
    )


def test_a_net_alone_gets_a_solver_from_the_template() -> None:
    done = call("verify", "net.prototxt", "--batch-size", 5, "--iter-size", 2)
    assert done.code == 0
    assert done.out.startswith("The same training: batch_size 5 x iter_size 2 and batch_size 10 ")
    assert "without the changes" not in done.out


def test_json() -> None:
    done = call("verify", "clip.prototxt", "--json")
    found: dict[str, Any] = json.loads(done.out)
    assert (found["promised"], found["held"], found["effective_batch"]) == (True, True, 12)
    assert found["gradient"]["compensated"] < 1e-5
    assert found["gradient"]["plain"] == pytest.approx(2 / 3, rel=1e-4)
    assert [(row["layer"], row["index"], row["shape"]) for row in found["parameters"]] == [
        ("ip", 0, [4, 231]),
        ("ip", 1, [4]),
    ]
    assert found["data"][0]["made"] is True
    assert "clip_gradients" in {finding["cause"] for finding in found["audit"]}


def test_a_compensation_can_be_refused() -> None:
    done = call("verify", "clip.prototxt", "--no-compensate", "clip_gradients")
    assert done.code == 0
    assert done.out.startswith("Another training, as the audit says: clip_gradients (different)")
    unknown = call("verify", "clip.prototxt", "--no-compensate", "clip")
    assert unknown.code == 2
    assert "clip_gradients" in unknown.err


def test_a_broken_promise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("caffe_batch.engines.caffe.engine")
    monkeypatch.setattr(module, "audit", lambda model, **split: ())  # it overlooks the clipping
    done = call("verify", "clip.prototxt")
    assert done.code == 1
    assert done.out.startswith("NOT the same training, though the audit says so: ")
    assert "caffe-batch: NOT the same training" in done.err
    assert "please report it" in done.err
