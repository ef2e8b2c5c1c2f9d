"""Outputs of test nets that are no scores are summarised."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import pytest

from caffe_batch.engines.events import Built, NetTestOutput, NetTestStarted
from caffe_batch.experiments.standings import output_names
from caffe_batch.jobs.metrics import MetricsFile, NetTestMetrics, read_metrics
from caffe_batch.jobs.stages import read_stages
from caffe_batch.reporting.report_data import read_run
from caffe_batch.reporting.training_view import format_scores
from caffe_batch.runtimes import Runtime
from caffe_batch.training.following import RunFollower
from caffe_batch.training.progress import RunFold
from caffe_batch.training.supervisor import train
from caffe_batch.training.tracker import Tracker
from tests.both_engines import runtime as runtime
from tests.command import call
from tests.planned_jobs import NET, write_job, write_lmdb

#: Two tops that nothing reads, one of them just small enough for scores.
UNREAD = """
layer { name: "big" type: "DummyData" top: "big" include { phase: TEST } dummy_data_param {
  shape { dim: 3 dim: 11 } data_filler { type: "gaussian" } } }
layer { name: "small" type: "DummyData" top: "small" include { phase: TEST } dummy_data_param {
  shape { dim: 32 } data_filler { type: "constant" value: 2 } } }
"""


def test_of_a_training(runtime: Runtime, tmp_path: Path) -> None:
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8) + UNREAD
    job = write_job(tmp_path, net=net, max_iter=20)
    outcome = train(job, runtime)
    log = job.log.read_text()
    printed = [float(line.split()[-1]) for line in log.splitlines() if ": big = " in line]
    assert len(printed) == 2 * 33
    tests = [line for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]
    big = [line for line in tests if line.output == "big"]
    assert [line.count for line in big] == [33, 33]
    for line, own in zip(big, (printed[:33], printed[33:]), strict=True):
        assert line.value == pytest.approx(sum(own) / 33, rel=1e-3, abs=1e-5)
        assert (line.least, line.most) == pytest.approx((min(own), max(own)), rel=1e-5)
    small = [line for line in tests if line.output == "small"]
    assert [(line.count, line.value) for line in small] == [(1, 2.0)] * 64
    assert {line.output for line in tests} == {"accuracy", "big", "loss", "small"}
    assert "(mean of 33 values, " in format_scores(outcome.scores)
    with closing(RunFollower(job)) as follower:
        seen = follower.status().json()["test"]
    (status,) = [each for each in seen if each["output"] == "big"]
    assert (status["count"], status["most"]) == (33, big[-1].most)
    assert "big (mean of 33)" in [curve.name for curve in read_run(job).tests]
    assert output_names(tests) == ("accuracy", "loss")
    assert output_names(big) == (None, None)


def test_infinities_and_an_output_that_comes_short(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    stages = read_stages(job.read_plan())
    with MetricsFile(job.metrics) as metrics:
        tracker = Tracker(
            stages, None, first_update=0, seconds_before=0.0, fold=RunFold(stages, None),
            metrics=metrics,
        )  # fmt: skip
        tracker.handle(Built(0, large_outputs=((0, "big", 40), (1, "big", 2))))
        for update, net, values in (
            (0, 0, [math.nan] * 40), (5, 0, [1.0, 4.0]), (5, 1, [7.0, 8.0]),
        ):  # fmt: skip
            tracker.handle(NetTestStarted(update, net))
            for index, value in enumerate(values):
                tracker.handle(NetTestOutput(index, "big", value, False))
    found = [line for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]
    assert [(m.update, m.test_net, m.count, m.value, m.least, m.most) for m in found] == [
        (0, 0, 40, None, None, None),
        (5, 0, 2, 2.5, 1.0, 4.0),
        (5, 1, 1, 7.0, None, None),
        (5, 1, 1, 8.0, None, None),
    ]


@pytest.mark.parametrize("phase", ["TRAIN", "TEST", None])
def test_plan_names_what_nothing_reads(tmp_path: Path, phase: str | None) -> None:
    include = f"include {{ phase: {phase} }}" if phase else ""
    unread = UNREAD.replace("include { phase: TEST }", include)
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8) + unread
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 test_iter: 7 '
        "test_interval: 5"
    )
    done = call("plan", tmp_path / "solver.prototxt", "--gpu-memory", "1GiB", "--json")
    notes = [note for note in json.loads(done.out)["notes"] if "Nothing reads" in note]
    places = ", ".join(f"33 values in {each}" for each in ([phase] if phase else ["TRAIN", "TEST"]))
    (note,) = notes
    assert note.startswith(f"Nothing reads 'big' of layer 'big' ({places}), so Caffe")
