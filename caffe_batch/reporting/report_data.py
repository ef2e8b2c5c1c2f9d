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

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from caffe_batch import engines
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import MetricsFollower, NetTestMetrics, UpdateMetrics, finite
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.stages import TrainingStage, read_stages, stage_at
from caffe_batch.memory import Prediction
from caffe_batch.net import read_recipe
from caffe_batch.prototxt import PrototxtWarning
from caffe_batch.reporting.net_layout import Drawing, drawing
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.following import RunFollower, Status

#: The fields of a solver that name its nets, or hold them.
_NETS = {"net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param"}


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
class PlannedNet:
    """What a plan alone says about the net of its first stage; calculated when it is asked for.

    Attributes:
        job: The directory.
        plan: Its plan.
    """

    job: JobDirectory
    plan: PlanFile

    @property
    def memory(self) -> Prediction | str:
        """The predicted memory, or the reason why there is no prediction."""
        return self._found if isinstance(self._found, str) else self._found[0]

    @property
    def drawing(self) -> Drawing | None:
        """The net as a picture; None where its memory isn't predicted."""
        return None if isinstance(self._found, str) else self._found[1]

    @cached_property
    def _found(self) -> tuple[Prediction, Drawing] | str:
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
            memory = model.at()
            sizes = {row.name: row.bytes for row in memory.layers if row.net == "train"}
            return memory, drawing(recipe.train.build(model.train_layers), sizes)
        except CaffeBatchError as error:
            # Its hint is about arguments of a command, not about the page.
            return f"It can't be predicted: {error.message}."
        except (ValueError, OSError) as error:
            return f"It can't be predicted: {error}."


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
        planned: Its net.
    """

    name: str
    job: JobDirectory
    plan: PlanFile
    stages: tuple[TrainingStage, ...]
    status: Status
    updates: tuple[UpdateMetrics, ...]
    tests: tuple[TestCurve, ...]
    planned: PlannedNet

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

    @property
    def memory(self) -> Prediction | str:
        """The predicted memory of the first stage, or the reason why there is no prediction."""
        return self.planned.memory

    @property
    def drawing(self) -> Drawing | None:
        """The net of the first stage as a picture; None where its memory isn't predicted."""
        return self.planned.drawing

    def solver_settings(self) -> list[tuple[str, tuple[str, ...]]]:
        """What the solvers say: each field with its value in each stage, empty where it has none.

        Which nets they name is left out.
        """
        every = [_solver_fields(stage.solver) for stage in self.stages]
        names = dict.fromkeys(name for fields in every for name in fields)
        return [(name, tuple(fields.get(name, "") for fields in every)) for name in names]

    def extremes(self) -> list[tuple[str, NetTestMetrics]]:
        """The lowest value of each test loss and the highest of each other output, in words."""
        found = []
        for curve in self.tests:
            lines = [line for line in curve.lines if line.value is not None]
            if lines:
                word, choose = ("lowest", min) if curve.is_loss else ("highest", max)
                best = choose(lines, key=lambda line: line.value or 0.0)
                found.append((f"{word} {curve.name}", best))
        return found

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that are there, oldest first."""
        return engines.find(self.plan.engine).snapshots.list_snapshots(self.job.snapshots)


def read_run(
    job: JobDirectory, name: str | None = None, earlier: ReportedRun | None = None
) -> ReportedRun:
    """Read a run; it may still be going on, and lines of metrics.jsonl may be damaged.

    Args:
        job: A job directory.
        name: Its name in the report; the directory's name if None.
        earlier: The same run as it was read before: what its plan says isn't calculated again.

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
        planned=earlier.planned if earlier and earlier.plan == plan else PlannedNet(job, plan),
    )


def read_runs(
    directories: Sequence[Path], earlier: Sequence[ReportedRun] = ()
) -> list[ReportedRun]:
    """Read several runs and give each a unique name.

    Args:
        directories: The job directories.
        earlier: The same runs, in this order, as they were read before.

    Raises:
        InputError: A run can't be read, or is given twice.
    """
    jobs = [JobDirectory(directory) for directory in directories]
    for number, job in enumerate(jobs):
        if job.path in [earlier.path for earlier in jobs[:number]]:
            raise InputError(f"{job.path} is given twice", hint="Give each run once.")
    before: Sequence[ReportedRun | None] = earlier or [None] * len(jobs)
    return [
        read_run(job, name, run)
        for job, name, run in zip(jobs, _own_names(jobs), before, strict=True)
    ]


def _solver_fields(solver: caffe_pb2.SolverParameter) -> dict[str, str]:
    """The fields that are set, each in the words of a prototxt."""
    found = {}
    for field, value in solver.ListFields():
        if field.name in _NETS:
            continue
        repeated = isinstance(value, Sequence) and not isinstance(value, str)
        values = list(value) if repeated else [value]
        found[field.name] = ", ".join(_value(field, each) for each in values)
    return found


def _value(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if field.message_type is not None:
        return text_format.MessageToString(value, as_one_line=True).strip()
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.8g}" if isinstance(value, float) else str(value)


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
