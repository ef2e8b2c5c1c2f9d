"""The solvers of a job, run one after another: one for most jobs, several for a growing schedule.

Caffe's iteration number continues from stage to stage, and so does every ``update`` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.layers.loading import installed_rules
from caffe_batch.layers.registry import Registry
from caffe_batch.prototxt import read_solver
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.checks import check_solver
from caffe_batch.solver.testing import has_test_at, number_of_tests


@dataclass(frozen=True)
class TrainingStage:
    """One solver of a job, and where its updates lie among those of the whole job.

    Attributes:
        number: 1 for the first.
        path: Its solver.
        solver: Its content, in current syntax.
        effective_batch: Samples of each of its updates; None where the plan doesn't know, as for
            files that are trained as they are.
        first_update: Updates done when it begins.
        first_sample: Samples seen when it begins.
        rules: What the layer types of its net do.
        gpus: GPUs that share each of its updates.
    """

    number: int
    path: Path
    solver: caffe_pb2.SolverParameter
    effective_batch: int | None
    first_update: int
    first_sample: int
    rules: Registry = field(default_factory=installed_rules, repr=False)
    gpus: int = 1

    @property
    def last_update(self) -> int:
        """Updates done when it ends: max_iter includes those of all earlier stages."""
        return self.solver.max_iter

    @property
    def batch_size(self) -> int | None:
        """Samples of each of its micro-batches, on each GPU; None if they aren't known."""
        known = self.effective_batch
        return None if known is None else known // (self.solver.iter_size * self.gpus)

    def samples(self, update: int) -> int | None:
        """Samples seen by the first ``update`` updates of the job; the last is of this stage.

        None if the samples of an update aren't known.
        """
        if self.effective_batch is None:
            return None
        return self.first_sample + (update - self.first_update) * self.effective_batch

    def tests_at(self, update: int) -> bool:
        """Whether Caffe tests when it resumes after this many updates (solver.cpp: Step, Solve)."""
        return has_test_at(self.solver.test_interval, update)

    def tests_before(self, update: int) -> int:
        """How many tests this stage has run before any that follows ``update`` updates.

        The test at the end of a stage isn't counted here (see :func:`past_tests`).
        """
        return number_of_tests(self.solver, self.first_update, min(update, self.last_update))


def read_stages(plan: PlanFile) -> tuple[TrainingStage, ...]:
    """The stages of a job, checked for what training relies on.

    Raises:
        InputError: A solver can't train, or the next one couldn't continue from it.
    """
    stages: list[TrainingStage] = []
    rules = plan.registry()
    for number, facts in enumerate(plan.stages, start=1):
        solver = read_solver(facts.solver, allow_unknown_fields=True)
        check_solver(solver, facts.solver)
        if number < len(plan.stages) and not solver.snapshot_after_train:
            raise InputError(
                f"{facts.solver}: without snapshot_after_train the next stage has no snapshot "
                "to continue from",
                hint="Remove snapshot_after_train: false.",
            )
        before = stages[-1] if stages else None
        done = before.last_update if before else 0
        if solver.max_iter <= done:
            raise InputError(
                f"{facts.solver}: max_iter is {solver.max_iter}, and the stages before do {done} "
                "updates already",
                hint="max_iter counts the updates of all stages up to its own.",
            )
        samples = (before.samples(done) or 0) if before else 0
        stages.append(
            TrainingStage(
                number, facts.solver, solver, facts.effective_batch, done, samples, rules, plan.gpus
            )
        )
    return tuple(stages)


def past_tests(stages: Sequence[TrainingStage], update: int) -> tuple[int, ...]:
    """How many tests each stage has run before any that follows ``update`` updates.

    Where one stage ends with a test that the next begins with, only the latter counts.
    """
    done = [stage.tests_before(update) for stage in stages]
    for number, (stage, after) in enumerate(pairwise(stages)):
        bound = stage.last_update
        if update >= bound and stage.tests_at(bound) and not after.tests_at(bound):
            done[number] += 1
    return tuple(done)


def stage_at(stages: Sequence[TrainingStage], done: int) -> TrainingStage:
    """The stage that the next update belongs to; the last stage once all are done."""
    return next((stage for stage in stages if done < stage.last_update), stages[-1])
