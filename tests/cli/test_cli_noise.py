"""``caffe-batch noise`` and ``train --noise-scale``, on real Caffe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from caffe_batch.jobs.metrics import GradientMetrics, MetricsFile, gradient_metrics
from tests.command import Result, call, tree
from tests.experiments.regression import write_regression
from tests.planned_jobs import NET, write_job, write_lmdb

pytestmark = pytest.mark.usefixtures("runtime")


def test_json(tmp_path: Path) -> None:
    regression = write_regression(tmp_path, records=32_000, batch_size=32, solver="iter_size: 4")
    done = call("noise", regression.solver, "--groups", 20, "--passes", 50, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert list(told) == [
        "noise_scale", "standard_error", "low", "high", "gradient_norm_squared", "trace",
        "batch_size", "passes", "groups", "weights", "device", "notes", "effective_batch",
        "advice",
    ]  # fmt: skip
    assert (told["batch_size"], told["passes"], told["groups"]) == (32, 50, 20)
    assert told["effective_batch"] == 128
    assert (told["weights"], told["device"]) == ([], "CPU")
    assert told["low"] < told["noise_scale"] < told["high"]
    assert told["noise_scale"] == pytest.approx(regression.noise_scale, rel=0.2)
    assert told["noise_scale"] == pytest.approx(told["trace"] / told["gradient_norm_squared"])
    advice = told["advice"]
    assert list(advice) == [
        "effective_batch", "updates_over_fewest", "samples_over_fewest", "doubled", "halved",
        "is_bound", "text",
    ]  # fmt: skip
    assert advice["updates_over_fewest"] == pytest.approx(1 + told["noise_scale"] / 128)
    assert "The effective batch of 128 is above the noise scale: 256 would" in advice["text"]
    (note,) = told["notes"]
    assert f"note: {note}\n" in done.err
    assert note.startswith("Measured at the weights that the fillers give; ")


def test_what_people_see(tmp_path: Path) -> None:
    regression = write_regression(tmp_path, records=1000, batch_size=32)
    done = call(
        "noise", regression.net, "--solver", regression.solver, "--batch-size", 16,
        "--effective-batch", 6,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "note: 1,600 samples were measured, and the data has only 1,000 records" in done.err
    first, second, _, header, *rows = done.out.splitlines()
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"noise scale {number} samples \(95%: {number} to {number}\) at the weights that the "
        "fillers give",
        first,
    )
    assert second == "measured on the CPU: 10 groups of 10 micro-batches of 16 samples"
    assert header.split() == ["effective", "batch", "updates", "samples"]
    batches = [row.replace("->", "").split()[0] for row in rows[:4]]
    assert batches == ["3", "6", "12", "24"]
    assert rows[1].split() == ["->", "6", "x", "1.00", "x", "1.00"]
    assert rows[5].startswith("The effective batch of 6 is below the noise scale: 12 would take")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["no.prototxt"], 2, "no.prototxt: there is no such file"),
        (["net.prototxt", "--weights", "a,b"], 2, "weights a: no such file"),
        (["net.prototxt", "--weights", "."], 2, "weights .: not a regular file"),
        (["net.prototxt", "--batch-size", "0"], 2, "'--batch-size': 0 is not in the range"),
        (["net.prototxt", "--groups", "4"], 2, "'--groups': 4 is not in the range"),
        (["net.prototxt", "--passes", "1"], 2, "'--passes': 1 is not in the range"),
        (["net.prototxt", "--cpu", "--gpu", "0"], 2, "--cpu and --gpu exclude each other"),
        (["net.prototxt", "--runtime", "/no/python"], 5, "/no/python is not an executable file"),
        (["none.prototxt"], 2, "source '{folder}/none.txt' is not in"),
        (
            ["zero.prototxt"],
            2,
            "batch_size 4 x iter_size 0, but an update takes at least",
        ),
        (["nan.prototxt", "--json"], 2, "the gradients are not finite"),
    ],
)
def test_wrong_usage(
    args: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_regression(tmp_path, records=8, batch_size=4)
    text = made.net.read_text()
    (tmp_path / "none.prototxt").write_text(text.replace("data.txt", "none.txt"))
    (tmp_path / "nan.prototxt").write_text(text.replace("value: 0.5", "value: nan"))
    (tmp_path / "zero.prototxt").write_text(made.solver.read_text() + "iter_size: 0")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    done = call("noise", *args)
    assert done.code == code, done.err
    assert message.format(folder=tmp_path) in done.err
    assert done.out == ""
    assert tree(tmp_path) == before


def test_a_net_that_caffe_cannot_build(tmp_path: Path) -> None:
    """Only the runtime can say so: a filler's type isn't looked at before."""
    made = write_regression(tmp_path, records=8, batch_size=4)
    text = made.net.read_text()
    assert '"constant"' in text
    made.net.write_text(text.replace('"constant"', '"steady"'))
    done = call("noise", made.net)
    assert done.code == 2, done.err
    assert "Caffe can't build the net, open its data or load its weights: " in done.err
    assert "Traceback" not in done.err


# train --noise-scale


def test_a_training_tells_its_noise_scale(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=20)
    done = call("train", job.path, "--noise-scale", "--quiet")
    assert done.code == 0, done.err
    assert "\nnoise: " in done.out
    assert gradient_metrics(job.metrics)[0].update == 1

    with MetricsFile(job.metrics) as metrics:  # as if all of a longer run had been measured
        for update in range(21, 1021):
            metrics.append(GradientMetrics(update, 6, 3, 5.0, 3.0, 1.0))
    lines = call("train", job.path, "--noise-scale").out.splitlines()
    assert [line[:5] for line in lines[1:]] == [
        "test:", "best:", "noise", "     ", "plan:", "files", "model", "next:",
    ]  # fmt: skip
    assert lines[3].startswith("noise: 9 samples (95%: 9 to 9) from update 5")
    assert lines[4].strip() == (
        "The effective batch of 18 is above the noise scale: 36 would take 17% fewer updates and "
        "67% more samples to reach the same loss. Half of it would take 33% more updates and "
        "33% fewer samples."
    )
    assert "noise:" not in call("train", job.path).out


def train_with_budget(folder: Path, *args: object) -> Result:
    write_lmdb(folder / "data")
    net = folder / "tiny.prototxt"
    net.write_text(NET.format(data=folder / "data", batch_size=14, width=8))
    budget = ("--gpu-memory", "1GiB", "--reserve", "0", "--out", folder / "job")
    return call("train", net, *budget, *args)


def test_a_plan_without_accumulation_is_refused_before_it_is_written(tmp_path: Path) -> None:
    done = train_with_budget(tmp_path, "--noise-scale")
    assert done.code == 2
    assert "--noise-scale compares the micro-batches of an update, but iter_size is 1" in done.err
    assert "`caffe-batch noise NET` measures it without accumulation." in done.err
    assert not (tmp_path / "job").exists()
