"""The data of a report: everything that the directory of a run contains, read once."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import MetricsFollower, NetTestMetrics, UpdateMetrics, finite
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.stages import TrainingStage, read_stages, stage_at
from caffe_batch.memory import Prediction
from caffe_batch.net import read_recipe
from caffe_batch.prototxt import PrototxtWarning
from caffe_batch.training.following import RunFollower, Status


@dataclass(frozen=True)
class TestCurve:
    """One output of one test net over the run.

    Attributes:
        name: Name of the blob, with the net and the number where the name alone isn't unique.
        is_loss: Whether it has a loss_weight.
        lines: Its measurements, in the order of the updates.
    """

    __test__ = False  # tells pytest that this is not a test

    name: str
    is_loss: bool
    lines: tuple[NetTestMetrics, ...]


@dataclass(frozen=True)
class ReportedRun:
    """A run as its files describe it.

    Attributes:
        name: Its name in the report, unique among the runs that are reported together.
        job: Its directory.
        plan: Its plan.
        stages: The stages of its schedule.
        status: Its state and progress.
        updates: The losses, in the order of the updates.
        tests: The test outputs.
    """

    name: str
    job: JobDirectory
    plan: PlanFile
    stages: tuple[TrainingStage, ...]
    status: Status
    updates: tuple[UpdateMetrics, ...]
    tests: tuple[TestCurve, ...]

    def samples(self, update: int) -> int | None:
        """Samples seen by the first ``update`` updates; None if the plan doesn't know."""
        return stage_at(self.stages, max(update - 1, 0)).samples(update)

    def curves(self) -> dict[str, Any]:
        """The curves as columns of numbers, for other programs; null where a number is missing."""
        return {
            "name": self.name,
            "update": [line.update for line in self.updates],
            "samples": [line.samples for line in self.updates],
            "seconds": [line.seconds for line in self.updates],
            "loss": [line.loss for line in self.updates],
            "learning_rate": [finite(line.learning_rate) for line in self.updates],
            "effective_batch": [line.effective_batch for line in self.updates],
            "tests": [
                {
                    "name": curve.name,
                    "is_loss": curve.is_loss,
                    "update": [line.update for line in curve.lines],
                    "samples": [self.samples(line.update) for line in curve.lines],
                    "seconds": [line.seconds for line in curve.lines],
                    "value": [line.value for line in curve.lines],
                }
                for curve in self.tests
            ],
        }

    @cached_property
    def memory(self) -> Prediction | str:
        """The predicted memory of the first stage, or the reason why there is no prediction."""
        if self.plan.as_is:
            return "The files are trained as they are, and their memory is not predicted."
        try:
            with warnings.catch_warnings():  # the plan has named the fields that are skipped
                warnings.simplefilter("ignore", PrototxtWarning)
                recipe = read_recipe(
                    self.job.solver, allow_unknown_fields=True, rules=self.plan.registry()
                )
            plan, directories = self.plan, (self.plan.working_directory, *recipe.directories)
            sources = plan.sources(*directories)
            model = engines.find(plan.engine).memory_model(
                recipe, sources, plan.mode, allow_unknown=True, build=plan.build, gpus=plan.gpus
            )
            return model.at()
        except CaffeBatchError as error:
            # Its hint is about arguments of a command, not about the page.
            return f"It can't be predicted: {error.message}."
        except (ValueError, OSError) as error:
            return f"It can't be predicted: {error}."


def read_run(job: JobDirectory, name: str | None = None) -> ReportedRun:
    """Read a run; it may still be going on, and lines of metrics.jsonl may be damaged.

    Args:
        job: A job directory.
        name: Its name in the report; the directory's name if None.

    Raises:
        InputError: There is no plan, or plan.json or job.json can't be read.
    """
    plan = job.read_plan()
    with closing(RunFollower(job)) as follower:
        status = follower.status()
    with closing(MetricsFollower(job.metrics)) as metrics:
        _, lines = metrics.read()
    return ReportedRun(
        name=name or job.path.name,
        job=job,
        plan=plan,
        stages=read_stages(plan),
        status=status,
        updates=tuple(line for line in lines if isinstance(line, UpdateMetrics)),
        tests=_test_curves([line for line in lines if isinstance(line, NetTestMetrics)]),
    )


def read_runs(directories: Sequence[Path]) -> list[ReportedRun]:
    """Read several runs and give each a unique name.

    Raises:
        InputError: A run can't be read, or is given twice.
    """
    jobs = [JobDirectory(directory) for directory in directories]
    for number, job in enumerate(jobs):
        if job.path in [earlier.path for earlier in jobs[:number]]:
            raise InputError(f"{job.path} is given twice", hint="Give each run once.")
    return [read_run(job, name) for job, name in zip(jobs, _own_names(jobs), strict=True)]


def _own_names(jobs: Sequence[JobDirectory]) -> list[str]:
    """The last parts of each path: as many as are needed to make the names different."""
    depth = 1
    while True:
        names = ["/".join(job.path.parts[-depth:]) for job in jobs]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _test_curves(lines: Sequence[NetTestMetrics]) -> tuple[TestCurve, ...]:
    groups: dict[tuple[int, int], list[NetTestMetrics]] = defaultdict(list)
    for line in lines:
        groups[line.test_net, line.index].append(line)
    nets = {net for net, _ in groups}
    counts: dict[tuple[int, str], int] = defaultdict(int)
    for (net, _), own in groups.items():
        counts[net, own[0].output] += 1
    curves = []
    for (net, index), own in sorted(groups.items()):
        output = own[0].output
        name = f"{output}[{index}]" if counts[net, output] > 1 else output
        name += f" (mean of {own[-1].count:,})" if own[-1].is_summary else ""
        name += f" (test net {net})" if len(nets) > 1 else ""
        curves.append(TestCurve(name, own[0].is_loss, tuple(own)))
    return tuple(curves)
