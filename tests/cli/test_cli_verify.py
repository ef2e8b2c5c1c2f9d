"""``caffe-batch verify``, called as a user or another program calls it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import RuntimeMissingError
from caffe_batch.experiments import verify
from tests.command import call
from tests.experiments.measuring import INPUT, LOSS, SOLVER, forked, inner_product


@pytest.fixture(autouse=True)
def quick(pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verify, "run_verification", forked(pycaffe))
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
        "note: samples of layer 'in': made up, as an Input layer gets its data from a program"
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


def test_the_files_own_split_is_shown_too() -> None:
    """A HingeLoss of no weight is named at both; a broken promise at either fails."""
    Path("own.prototxt").write_text(f'{SOLVER} net: "net.prototxt" iter_size: 2')
    done = call("verify", "own.prototxt")
    assert done.code == 0
    first, _, own = done.out.partition("The files' own split\n")
    assert first.startswith("The same training: batch_size 4 x iter_size 3 and ")
    assert own.startswith("The same training: batch_size 5 x iter_size 2 and batch_size 10 ")
    assert "The files' own split" not in call("verify", "own.prototxt", "--iter-size", 2).out


def test_a_job_is_measured_at_its_own_split() -> None:
    """The plan names what its Scale does at batch_size 1, and verify shows it."""
    Path("net.prototxt").write_text(
        INPUT
        + inner_product()
        + 'layer { name: "s" type: "Scale" bottom: "ip" top: "s" }'
        + LOSS.replace('"ip"', '"s"')
    )
    given = ("--effective-batch", 4, "--batch-size", 1, "--gpu-memory", "1GiB", "--out", "job")
    assert call("plan", "clip.prototxt", *given).code == 0
    done = call("verify", "job")
    assert done.code == 0
    assert done.out.startswith("The same training: batch_size 4 x iter_size 3 ")
    _, _, own = done.out.partition("The files' own split\n")
    assert own.startswith("Another training, as the audit says: overwritten_gradient (different)")
    assert "batch_size 1 x iter_size 4 and batch_size 4 differ" in " ".join(own.split())
    refused = call("verify", ".")
    assert refused.code == 2
    assert "plan.json" in refused.err


def test_draws_are_held_and_shown() -> None:
    drop = 'layer { name: "drop" type: "Dropout" bottom: "%s" top: "%s" }'
    net = INPUT + drop % ("data", "data") + inner_product() + drop.replace("drop", "d2", 1) % (
        "ip", "ip") + LOSS  # fmt: skip
    Path("net.prototxt").write_text(net)
    done = call("verify", "net.prototxt")
    assert done.code == 0
    assert done.out.startswith("The same training, given the same draws: ")
    assert "draws held equal: 'drop' draws nothing (dropout_ratio 1e-30);" in done.out
    assert "with another seed the whole batch differs from itself by " in " ".join(done.out.split())


def test_a_compensation_can_be_refused() -> None:
    done = call("verify", "clip.prototxt", "--no-compensate", "clip_gradients")
    assert done.code == 0
    assert done.out.startswith("Another training, as the audit says: clip_gradients (different)")
    unknown = call("verify", "clip.prototxt", "--no-compensate", "clip")
    assert unknown.code == 2
    assert "clip_gradients" in unknown.err


def test_a_broken_promise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("caffe_batch.engines.base")
    monkeypatch.setattr(module, "audit", lambda model, **split: ())  # it overlooks the clipping
    done = call("verify", "clip.prototxt")
    assert done.code == 1
    assert done.out.startswith("NOT the same training, though the audit says it is: ")
    assert "caffe-batch: NOT the same training" in done.err
    assert "please report it" in done.err


def test_a_job_is_measured_on_its_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the command names another one; a choice for all commands is for other files."""
    given = ("--engine", "pytorch", "--gpu-memory", "1GiB", "--out", "job")
    assert call("plan", "clip.prototxt", *given).code == 0
    asked: list[str] = []

    def nothing(_: object, engine: str) -> None:
        asked.append(engine)
        raise RuntimeMissingError("none here")

    monkeypatch.setattr("caffe_batch.api.verifications.find_runtime", nothing)
    assert call("verify", "job").code == 5
    assert call("verify", "job", "--engine", "caffe").code == 5
    monkeypatch.setenv("CAFFE_BATCH_ENGINE", "caffe")
    assert call("verify", "job").code == 5
    assert call("verify", "clip.prototxt").code == 5
    assert asked == ["pytorch", "caffe", "pytorch", "caffe"]
