"""The results of several trainings of one strategy: means over the seeds, and their spread.

The spread is the sample standard deviation over the seeds (with n - 1 in the denominator): how far
one training may lie from the mean by chance alone. Values that aren't finite are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.jobs.stages import read_stages, stage_at
from caffe_batch.jobs.strategy_files import StrategyFacts

#: The loss at the end is the mean over this last share of the updates.
_END = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """A value over the seeds.

    Attributes:
        mean: Its mean, or None without any finite value.
        sd: Its sample standard deviation, or None with fewer than two.
        low, high: The smallest and the largest.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """The spread of some values.

        >>> Spread.of([1.0, 3.0, None])
        Spread(mean=2.0, sd=1.4142135623730951, low=1.0, high=3.0)
        """
        known = [value for value in values if value is not None and isfinite(value)]
        if not known:
            return cls(None, None, None, None)
        sd = stdev(known) if len(known) > 1 else None
        return cls(fmean(known), sd, min(known), max(known))

    def json(self) -> dict[str, float | None]:
        """The spread for other programs, to seven digits."""
        values = {"mean": self.mean, "sd": self.sd, "min": self.low, "max": self.high}
        return {key: None if x is None else float(f"{x:.7g}") for key, x in values.items()}


@dataclass(frozen=True, slots=True)
class Point:
    """One test of one training.

    Attributes:
        update, samples: Updates done, and the samples that they have seen.
        seconds: Time spent training so far, earlier tests included.
        score: The first output of the first test net that isn't a loss (its accuracy), or None.
        loss: The first output that is a loss; None if there is none, or if it isn't finite.
    """

    update: int
    samples: int
    seconds: float
    score: float | None
    loss: float | None


@dataclass(frozen=True)
class SeedRun:
    """One training of one strategy.

    Attributes:
        seed: Its random_seed.
        directory: Its job directory, relative to that of the comparison.
        points: Its tests.
        diverged: Whether a loss was not finite, or the training's loss ended above its first one.
        failure: Why Caffe stopped before the end; empty if the training was completed.
    """

    seed: int
    directory: str
    points: tuple[Point, ...]
    diverged: bool
    failure: str = ""

    def json(self) -> dict[str, Any]:
        """The run for other programs; its score and loss are those of the last test."""
        last = self.points[-1] if self.points else None
        return {
            "seed": self.seed,
            "directory": self.directory,
            "score": last and last.score,
            "loss": last and last.loss,
            "samples": last and last.samples,
            "seconds": last and last.seconds,
            "diverged": self.diverged,
            "failure": self.failure or None,
        }


@dataclass(frozen=True)
class Standing:
    """One strategy in the comparison.

    Attributes:
        facts: What strategies.json says about it.
        runs: Its trainings, one for each seed.
    """

    facts: StrategyFacts
    runs: tuple[SeedRun, ...]

    @property
    def name(self) -> str:
        """Its name, as in strategies.json."""
        return self.facts.name

    @property
    def complete(self) -> tuple[SeedRun, ...]:
        """The trainings that were completed."""
        return tuple(run for run in self.runs if not run.failure)

    @property
    def diverged(self) -> int:
        """How many trainings diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def failed(self) -> int:
        """How many trainings Caffe stopped."""
        return len(self.runs) - len(self.complete)

    def points(self) -> list[tuple[Point, ...]]:
        """The tests that all complete trainings share, each with a point for every training."""
        curves = [{point.update: point for point in run.points} for run in self.complete]
        shared = sorted(set.intersection(*map(set, curves))) if curves else []
        return [tuple(curve[update] for curve in curves) for update in shared]

    def json(self) -> dict[str, Any]:
        """The strategy for other programs."""
        points = self.points()
        last = points[-1] if points else ()
        facts = {key: value for key, value in self.facts.content.items() if key != "changes"}
        return {
            **facts,
            "samples": last[0].samples if last else None,
            "score": Spread.of(point.score for point in last).json(),
            "loss": Spread.of(point.loss for point in last).json(),
            "seconds": Spread.of(point.seconds for point in last).json(),
            "diverged": self.diverged,
            "failed": self.failed,
            "runs": [run.json() for run in self.runs],
            "curve": [
                {
                    "update": point[0].update,
                    "samples": point[0].samples,
                    "seconds": Spread.of(each.seconds for each in point).json()["mean"],
                    **_curve_json("score", Spread.of(each.score for each in point)),
                    **_curve_json("loss", Spread.of(each.loss for each in point)),
                }
                for point in points
            ],
        }


def _curve_json(name: str, spread: Spread) -> dict[str, float | None]:
    values = spread.json()
    return {name: values["mean"], f"{name}_sd": values["sd"]}


@dataclass(frozen=True)
class Comparison:
    """What ``caffe-batch compare`` found.

    Attributes:
        score_name, loss_name: The test outputs that are compared; None where there is none.
        seeds: The seeds of each strategy.
        jobs: Trainings that ran at once; if more than one, each took longer than alone.
        recipe: The recipe as in strategies.json.
        standings: The strategies, in the order of strategies.json.
    """

    score_name: str | None
    loss_name: str | None
    seeds: tuple[int, ...]
    jobs: int
    recipe: Mapping[str, Any]
    standings: tuple[Standing, ...]

    def json(self) -> dict[str, Any]:
        """The comparison for other programs; ``sd`` is the sample standard deviation."""
        return {
            "score": self.score_name,
            "loss": self.loss_name,
            "seeds": list(self.seeds),
            "jobs": self.jobs,
            "recipe": self.recipe,
            "strategies": [standing.json() for standing in self.standings],
        }


def output_names(tests: Iterable[NetTestMetrics]) -> tuple[str | None, str | None]:
    """The outputs of the first test net to compare: the first that isn't a loss, the first loss.

    >>> output_names([NetTestMetrics(9, 0, 0, "accuracy", 0.9, False, 1.0)])
    ('accuracy', None)
    """
    scores = (each for each in tests if each.test_net == 0 and not each.is_summary)
    first = sorted(scores, key=lambda each: each.index)
    score = next((each.output for each in first if not each.is_loss), None)
    loss = next((each.output for each in first if each.is_loss), None)
    return score, loss


def read_tests(job: JobDirectory) -> list[NetTestMetrics]:
    """The tests of a training."""
    if not job.metrics.is_file():
        return []
    return [each for each in read_metrics(job.metrics) if isinstance(each, NetTestMetrics)]


def read_run(job: JobDirectory, root: Path, seed: int, failure: str = "") -> SeedRun:
    """Read one training from its metrics.

    Args:
        job: Its directory.
        root: The directory of the comparison.
        seed: Its random_seed.
        failure: Why Caffe stopped before the end; empty if the training was completed.

    Raises:
        InputError: The directory contains no plan.
    """
    tests = read_tests(job)
    names = output_names(tests)
    stages = read_stages(job.read_plan())
    points = []
    for update in sorted({test.update for test in tests}):
        here = [test for test in tests if test.update == update and test.test_net == 0]
        score, loss = (
            next((test.value for test in here if test.output == name), None) for name in names
        )
        samples = stage_at(stages, update).samples(update) or 0
        seconds = here[0].seconds if here else 0.0
        points.append(Point(update, samples, seconds, score, loss))
    return SeedRun(
        seed=seed,
        directory=str(job.path.relative_to(root.resolve())),
        points=tuple(points),
        diverged=_diverged(job, points),
        failure=failure,
    )


def _diverged(job: JobDirectory, points: Sequence[Point]) -> bool:
    if not job.metrics.is_file():
        return False
    losses = [each.loss for each in read_metrics(job.metrics) if isinstance(each, UpdateMetrics)]
    known = [loss for loss in losses if loss is not None]
    tested = any(point.loss is not None for point in points)
    if len(known) < len(losses) or (tested and any(point.loss is None for point in points)):
        return True
    end = known[-max(1, round(len(known) * _END)) :]
    return bool(known) and fmean(end) > known[0]
