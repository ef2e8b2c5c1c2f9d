"""The best test of a run, by one of its outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from caffe_batch.errors import InputError, Option, did_you_mean
from caffe_batch.jobs.metrics import Metrics, NetTestMetrics
from caffe_batch.net.recipe import NetFile, Recipe


@dataclass(frozen=True)
class Metric:
    """An output of a test net that says how good a net is.

    Attributes:
        output: Its name.
        test_net: The number of the test net; None for the first that has it.
    """

    output: str
    test_net: int | None = None

    @classmethod
    def parse(cls, text: str) -> Metric:
        """From ``accuracy``, or ``1:accuracy`` for test net 1.

        >>> Metric.parse("1:accuracy")
        Metric(output='accuracy', test_net=1)
        """
        found = re.fullmatch(r"(\d{1,4}):(.+)", text)
        return cls(found[2], int(found[1])) if found else cls(text)

    @property
    def is_none(self) -> bool:
        """Whether it is the word ``none``: no snapshot is kept for its score."""
        return self == Metric("none")

    def __str__(self) -> str:
        return self.output if self.test_net is None else f"{self.test_net}:{self.output}"

    def fits(self, score: NetTestMetrics) -> bool:
        """Whether a line of metrics.jsonl is about it."""
        return (
            score.output == self.output
            and not score.is_summary
            and self.test_net in (None, score.test_net)
        )


def better(score: NetTestMetrics, than: NetTestMetrics | None) -> bool:
    """Whether a test is better than another one: a loss if it is lower, anything else if higher.

    Of equal ones the earlier stays.
    """
    if score.value is None or not math.isfinite(score.value):
        return False
    if than is None or than.value is None:
        return True
    return score.value < than.value if score.is_loss else score.value > than.value


def best_test(
    lines: Iterable[Metrics], metric: Metric, updates: Collection[int] | None = None
) -> NetTestMetrics | None:
    """The best test; None if there is none.

    Args:
        lines: Those of metrics.jsonl.
        metric: What decides.
        updates: Only tests after this many updates count; None for all.
    """
    best: NetTestMetrics | None = None
    for line in lines:
        if not isinstance(line, NetTestMetrics) or not metric.fits(line):
            continue
        if best is not None and metric.test_net is None and line.test_net != best.test_net:
            continue
        if (updates is None or line.update in updates) and better(line, best):
            best = line
    return best


def usual_metric(scores: Iterable[NetTestMetrics]) -> Metric | None:
    """What decides if nothing is said: the first output that is no loss, or else the first loss."""
    single = [score for score in scores if not score.is_summary]
    chosen = next((each for each in single if not each.is_loss), next(iter(single), None))
    return None if chosen is None else Metric(chosen.output, chosen.test_net)


def check_tested(recipe: Recipe, metric: Metric) -> None:
    """Refuse a metric that no test of a recipe has.

    Raises:
        InputError: Names those that there are.
    """
    found: dict[str, set[int]] = {}
    for number, test in enumerate(recipe.tests):
        for name in _outputs(test):
            found.setdefault(name, set()).add(number)
    if not recipe.solver.test_interval or not found:
        raise InputError(
            [Option("keep_best", str(metric)), ": the solver makes no tests"],
            hint="Give it a test_interval, and a TEST net with an Accuracy or a loss.",
        )
    if metric.output not in found or metric.test_net not in (None, *found[metric.output]):
        raise InputError(
            [Option("keep_best", str(metric)), ": the tests have no such output"],
            hint=did_you_mean(metric.output, list(found)) or f"They have {', '.join(found)}.",
        )


def _outputs(test: NetFile) -> list[str]:
    """The named tops that no layer of a TEST net reads."""
    unread: dict[str, None] = {}
    for _, layer in test.selected():
        for bottom in layer.bottom:
            unread.pop(bottom, None)
        if layer.bottom:
            unread.update(dict.fromkeys(layer.top))
    return list(unread)
