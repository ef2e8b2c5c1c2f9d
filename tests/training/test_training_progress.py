"""Rates, the thinned-out loss curve, and the progress that metrics lines give."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.progress import LossCurve, Rate, RunFold

#: Two stages: 60 updates of 18 samples, then 40 of 36, at a rate that single precision rounds.
STAGES = tuple(
    TrainingStage(
        number,
        Path(),
        caffe_pb2.SolverParameter(max_iter=end, base_lr=0.01, lr_policy="fixed"),
        batch,
        first,
        samples,
    )
    for number, end, batch, first, samples in ((1, 60, 18, 0, 0), (2, 100, 36, 60, 1080))
)


def line(update: int, loss: float | None = 0.5, seconds: float | None = None) -> UpdateMetrics:
    stage = STAGES[update > 60]
    spent = 0.5 * update if seconds is None else seconds
    return UpdateMetrics(update, loss, 0.01, stage.samples(update), None, spent, 18)


def test_no_rate_before_there_is_time_and_work() -> None:
    rate = Rate(7, 70)
    assert rate.recent() is rate.since(7, 70) is None
    rate.add(7, 70, 2.0)
    assert rate.recent() is rate.since(7, 70) is None


def test_the_rate_of_late_and_since_an_update() -> None:
    rate = Rate(0, 100)
    for second in range(1, 61):  # 10 a second, then 2 a second
        samples = 10 * second if second <= 30 else 300 + 2 * (second - 30)
        rate.add(second, 100 + samples, second)
    assert rate.recent() == pytest.approx(2.0)
    assert rate.since(0, 100) == pytest.approx(6.0)
    assert rate.since(30, 400) == pytest.approx(2.0)


def test_a_pause_between_two_points_counts() -> None:
    rate = Rate(0, 0)
    rate.add(1, 10, 1.0)
    rate.add(2, 20, 101.0)
    assert rate.recent() == pytest.approx(0.1)


def test_a_point_ahead_stands_until_the_next() -> None:
    rate = Rate(0, 0)
    rate.add(1, 10, 1.0)
    rate.look_ahead(3, 30, 2.0)
    assert (rate.update, rate.recent(), rate.since(1, 10)) == (3, 15.0, 20.0)
    rate.add(4, 40, 4.0)
    assert (rate.update, rate.recent()) == (4, 10.0)


def test_the_curve_keeps_its_course_in_bounded_space() -> None:
    curve = LossCurve()
    for number in range(100_000):
        curve.add(float(number))
    points = curve.points()
    assert 32 <= len(points) <= 128
    assert list(points) == sorted(points)
    assert points[0] < 2000
    assert points[-1] > 98_000
    steps = {after - before for before, after in pairwise(points)}
    assert len(steps) == 1


def test_a_run_that_continues_counts_all_attempts_but_its_rate() -> None:
    """30 updates at 2 a second, then 10 at 20 a second: what is left takes the new rate."""
    fold = RunFold(STAGES, 180)
    fold.add(*(line(update) for update in range(1, 31)))
    fold.add(*(line(update, seconds=15 + 0.05 * (update - 30)) for update in range(31, 41)))
    now = fold.progress(30, ("a note",), training=True)
    assert (now.update, now.updates, now.samples, now.epoch) == (40, 100, 720, 4.0)
    assert now.elapsed_s == pytest.approx(15.5)
    left = 20 * 18 + 40 * 36
    assert now.left_s == pytest.approx(left / (18 * 20))
    assert fold.progress(0, (), training=True).left_s == pytest.approx(left / (40 * 18 / 15.5))
    assert (now.stage, now.stages, now.learning_rate) == (1, 2, 0.01)
    assert fold.progress(60, (), training=True).stage == 2


def test_a_run_from_a_snapshot_of_another_one() -> None:
    fold = RunFold(STAGES, None, begun=50)
    assert fold.progress(50, (), training=False).update == 50
    fold.add(line(52, seconds=1.0))
    now = fold.progress(50, (), training=True)
    assert (now.samples_per_s, now.epoch) == (36.0, None)


def test_losses_and_scores() -> None:
    score = NetTestMetrics(2, 0, 0, "accuracy", 0.5, False, 3.0)
    fold = RunFold(STAGES, None, 0, [line(1), line(2, None), score])
    assert fold.measured
    now = fold.progress(0, (), training=True)
    assert now.loss is not None
    assert math.isnan(now.loss)
    assert (now.losses[0], now.scores, now.elapsed_s) == (0.5, (score,), 3.0)
    assert (fold.tested_at(0, 0), fold.tested_at(0, 1)) == (2, None)
    assert not RunFold(STAGES, None).measured
