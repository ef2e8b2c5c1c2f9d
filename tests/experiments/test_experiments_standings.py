"""From metrics to means and spreads over the seeds."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

import pytest

from caffe_batch.experiments.standings import (
    Comparison,
    Point,
    SeedRun,
    Spread,
    Standing,
    output_names,
    read_run,
)
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import MetricsFile, NetTestMetrics, UpdateMetrics
from caffe_batch.jobs.strategy_files import StrategyFacts
from tests.planned_jobs import write_job

FACTS = StrategyFacts("small", "Small", content={"name": "small", "changes": [1]})


def update(number: int, loss: float | None) -> UpdateMetrics:
    return UpdateMetrics(number, loss, 0.01, 18 * number, None, 0.5 * number)


def score(
    number: int, output: str, value: float | None, index: int = 0, net: int = 0
) -> NetTestMetrics:
    return NetTestMetrics(number, net, index, output, value, output == "loss", 0.5 * number)


def write_metrics(job: JobDirectory, *lines: UpdateMetrics | NetTestMetrics) -> None:
    with MetricsFile(job.metrics) as metrics:
        for line in lines:
            metrics.append(line)


def run(*scores: float | None, seed: int = 1, failure: str = "", last: int = 0) -> SeedRun:
    points = [
        Point(10 * (i + 1), 180 * (i + 1), i + seed / 10, value, None)
        for i, value in enumerate(scores)
    ]
    return SeedRun(seed, f"runs/small/seed-{seed}", tuple(points[: last or None]), False, failure)


def test_spread() -> None:
    values = [0.91, 0.95, 0.96, 0.99]
    spread = Spread.of([*values, None, float("nan"), float("inf")])
    assert spread.mean == pytest.approx(mean(values))
    assert spread.sd == pytest.approx(stdev(values))
    assert (spread.low, spread.high) == (0.91, 0.99)
    assert Spread.of([0.5]) == Spread(0.5, None, 0.5, 0.5)
    assert Spread.of([None]) == Spread(None, None, None, None)


def test_a_run_is_read_from_its_metrics(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    write_metrics(
        job,
        update(1, 1.5), score(20, "accuracy", 0.5), score(20, "loss", 0.9, index=1),
        score(20, "accuracy", 0.1, net=1),
        update(40, 0.5), score(40, "accuracy", 0.8), score(40, "loss", 0.6, index=1),
    )  # fmt: skip
    found = read_run(job, tmp_path, 7)
    samples = 6 * 3  # an update of write_job's plan
    assert found.points == (
        Point(20, 20 * samples, 10, 0.5, 0.9),
        Point(40, 40 * samples, 20, 0.8, 0.6),
    )
    assert (found.seed, found.directory, found.diverged) == (7, "job", False)
    assert found.json()["score"] == 0.8


def test_a_run_without_metrics(tmp_path: Path) -> None:
    found = read_run(write_job(tmp_path), tmp_path, 1, "failed check")
    assert (found.points, found.diverged, found.failure) == ((), False, "failed check")
    assert found.json()["score"] is None


@pytest.mark.parametrize(
    ("losses", "tested", "diverged"),
    [
        ([1.0, 0.5, 0.25], 0.3, False),
        ([1.0, None, None], None, True),
        ([1.0, 0.5, None], 0.3, True),
        ([1.0, 0.5, 0.25], None, False),  # a test without a loss
        ([1.0, 3.0, 90.0], 80.0, True),
    ],
)
def test_divergence(
    tmp_path: Path, losses: list[float | None], tested: float | None, diverged: bool
) -> None:
    job = write_job(tmp_path)
    tests = [score(30, "accuracy", 0.25)]
    tests += [score(30, "loss", tested, index=1)] if tested is not None else []
    write_metrics(job, *(update(10 * i, loss) for i, loss in enumerate(losses, 1)), *tests)
    assert read_run(job, tmp_path, 1).diverged is diverged


def test_the_outputs_that_are_compared() -> None:
    assert output_names([]) == (None, None)
    tests = [
        score(1, "loss", 0.1, index=2), score(1, "top5", 0.9, index=1),
        score(1, "top1", 0.8, index=0), score(1, "other", 0.8, net=1),
    ]  # fmt: skip
    assert output_names(tests) == ("top1", "loss")


def test_only_what_all_trainings_share_is_averaged() -> None:
    runs = (run(0.5, 0.75, 0.875, seed=1), run(0.25, 0.25, seed=2), run(0.1, seed=3, failure="x"))
    standing = Standing(FACTS, runs)
    assert [[point.score for point in each] for each in standing.points()] == [
        [0.5, 0.25], [0.75, 0.25],
    ]  # fmt: skip
    assert (standing.failed, standing.diverged) == (1, 0)
    found = standing.json()
    assert "changes" not in found
    assert found["score"] == {"mean": 0.5, "sd": 0.3535534, "min": 0.25, "max": 0.75}
    assert found["samples"] == 360
    assert [point["update"] for point in found["curve"]] == [10, 20]
    assert found["curve"][0]["score"] == 0.375
    assert len(found["runs"]) == 3


def test_a_way_of_which_nothing_came_is_there_all_the_same() -> None:
    standing = Standing(FACTS, (run(seed=1, failure="out of memory"),))
    comparison = Comparison("accuracy", "loss", (1,), 1, {}, (standing,))
    (found,) = comparison.json()["strategies"]
    assert (found["failed"], found["curve"], found["samples"]) == (1, [], None)
    assert found["runs"][0]["failure"] == "out of memory"
