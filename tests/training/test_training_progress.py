"""Rates and the thinned-out loss curve."""

from __future__ import annotations

from itertools import pairwise

import pytest

from caffe_batch.engines.caffe.events import LossRecord
from caffe_batch.training.progress import LossCurve, Rate


def test_no_rate_before_there_is_time_and_work() -> None:
    rate = Rate(7, 0.0)
    assert rate.recent() is rate.overall() is None
    rate.add(7, 2.0)
    assert rate.recent() is rate.overall() is None


def test_the_rate_of_late_and_of_all() -> None:
    rate = Rate(100, 0.0)
    for second in range(1, 61):  # 10 a second, then 2 a second
        rate.add(100 + (10 * second if second <= 30 else 300 + 2 * (second - 30)), second)
    assert rate.recent() == pytest.approx(2.0)
    assert rate.overall() == pytest.approx(6.0)


def test_a_pause_between_two_points_counts() -> None:
    rate = Rate(0, 0.0)
    rate.add(10, 1.0)
    rate.add(20, 101.0)
    assert rate.recent() == pytest.approx(0.1)


def test_the_curve_keeps_its_course_in_bounded_space() -> None:
    curve = LossCurve()
    for start in range(0, 100_000, 1000):
        curve.add([LossRecord(n, float(n), 0.0) for n in range(start, start + 1000)])
    points = curve.points()
    assert 32 <= len(points) <= 128
    assert list(points) == sorted(points)
    assert points[0] < 2000
    assert points[-1] > 98_000
    steps = {after - before for before, after in pairwise(points)}
    assert len(steps) == 1
