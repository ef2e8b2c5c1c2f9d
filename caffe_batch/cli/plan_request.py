"""What the options of a plan come to: checked, read, and planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch import engines
from caffe_batch.cli.options import load_recipe
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.jobs.job_files import JobFiles
    from caffe_batch.layers.base import Mode
    from caffe_batch.memory import CaffeMemory
    from caffe_batch.net import Recipe, Sources
    from caffe_batch.planning import Budget, Plan, PlanOptions


@dataclass(frozen=True, kw_only=True)
class NetRequest:
    """Which net, in which build of Caffe, within which memory: as the options came in."""

    net: str
    solver: str | None
    input_shapes: tuple[str, ...]
    allow_unknown: bool
    allow_unknown_fields: bool
    gpu_memory: str | None
    mode: Mode
    engine: str
    build: str
    half: bool
    reserve: str | None

    def budget(self) -> Budget:
        """The memory that a run may use."""
        from caffe_batch.planning import parse_budget
        from caffe_batch.runtimes.machine import free_gpu_bytes
        from caffe_batch.runtimes.reserve import default_reserve

        if self.gpu_memory is None:
            raise InputError(
                "how much memory may the run use?",
                hint="Give --gpu-memory 8GiB, or --gpu-memory auto to ask the GPU.",
            )
        if self.reserve is not None:
            return parse_budget(self.gpu_memory, self.reserve, free_gpu_bytes)
        kept = 0 if self.mode == "cpu" else default_reserve().bytes
        return parse_budget(self.gpu_memory, None, free_gpu_bytes, kept)


@dataclass(frozen=True)
class Prepared:
    """What the options and the files come to: everything that planning starts from.

    Attributes:
        model: The memory model of the recipe.
        budget: The memory allowed.
        options: What the plan is to be.
        solver_text: The solver from the template, where the user gave none.
    """

    model: CaffeMemory
    budget: Budget
    options: PlanOptions
    solver_text: str | None


@dataclass(frozen=True, kw_only=True)
class PlanRequest(NetRequest):
    """What the user asked ``plan`` for, as the options came in."""

    effective_batch: int | None
    gpus: int = 1
    tolerance: Fraction = Fraction(0)
    batch_size: int | None = None
    iter_size: int | None = None
    prefer_multiple_of: int = 1
    epochs: Fraction | None
    test_every: Fraction | None
    snapshot_every: Fraction | None = None
    lr_scaling: str = "none"
    recipe_batch: int | None
    schedule: str = "decay"
    max_batch: int | None = None
    keep_schedule: bool = False
    keep_tests: bool = False
    no_compensate: tuple[str, ...] = ()
    train_records: int | None
    test_records: tuple[int, ...]

    def run(
        self, out: Path | None, check: Callable[[Plan], None] = lambda plan: None
    ) -> tuple[Plan, JobFiles | None]:
        """Plans, and writes the job directory if ``out`` is given and ``check`` doesn't raise."""
        from caffe_batch.jobs.job_files import write_job
        from caffe_batch.planning import make_plan

        found = self.prepare()
        plan = make_plan(found.model, found.budget, found.options)
        check(plan)
        if out is None:
            return plan, None
        model = found.model
        return plan, write_job(plan, model.recipe, found.solver_text, model.sources, out)

    def prepare(self) -> Prepared:
        """Reads the files; notes and warnings go to stderr."""
        from caffe_batch.jobs.job_files import with_solver
        from caffe_batch.memory import Build
        from caffe_batch.solver.checks import check_solver

        self._check()
        recipe, sources = load_recipe(
            self.net, self.solver, self.input_shapes,
            allow_unknown_fields=self.allow_unknown_fields,
        )  # fmt: skip
        budget = self.budget()
        recipe, solver_text = with_solver(
            recipe, sources, self.effective_batch, allow_unknown=self.allow_unknown
        )
        check_solver(recipe.solver, recipe.solver_path)
        model = engines.find(self.engine).memory_model(
            recipe, sources, self.mode,
            allow_unknown=self.allow_unknown,
            build=Build(self.build),
            gpus=self.gpus,
            half=self.half,
        )  # fmt: skip
        options = self._options(recipe, sources)
        if recipe.solver_path is None:
            click.echo(
                "note: no solver was given; templates/solver.prototxt.j2 makes one", err=True
            )
        return Prepared(model, budget, options, solver_text)

    def _check(self) -> None:
        """Refuses options that contradict each other."""
        lengths = {
            "--epochs": self.epochs,
            "--test-every": self.test_every,
            "--snapshot-every": self.snapshot_every,
            "--lr-scaling": None if self.lr_scaling == "none" else self.lr_scaling,
            "--recipe-batch": self.recipe_batch,
        }
        given = [name for name, value in lengths.items() if value is not None]
        if self.keep_schedule and given:
            raise InputError(
                f"--keep-schedule and {given[0]} contradict each other", hint="Give one of them."
            )
        if self.schedule == "decay" and self.max_batch is not None:
            raise InputError(
                "--max-batch is for a batch that grows", hint="Add --schedule grow or hybrid."
            )
        if self.schedule != "decay":
            self._check_growth()
        if self.keep_tests and self.test_records:
            raise InputError(
                "--keep-tests and --test-records contradict each other",
                hint="Records of the test data only matter where its batches are planned.",
            )

    def _check_growth(self) -> None:
        """Refuses what a batch that grows can't go with."""
        if self.iter_size is not None:
            raise InputError(
                f"--iter-size {self.iter_size} and --schedule {self.schedule} contradict each "
                "other: the batch grows by a larger iter_size in each phase",
                hint="Leave --iter-size out; --batch-size says how many samples a pass has.",
            )
        if self.keep_schedule:
            raise InputError(
                f"--keep-schedule and --schedule {self.schedule} contradict each other",
                hint="Give one of them.",
            )

    def _options(self, recipe: Recipe, sources: Sources) -> PlanOptions:
        from caffe_batch.jobs.job_files import gpus_of_job
        from caffe_batch.net.records import count_records
        from caffe_batch.planning import (
            Cause,
            LrScaling,
            PlanOptions,
            ScheduleOptions,
            SplitOptions,
        )
        from caffe_batch.planning.schedule.growth import Schedule

        tests = recipe.tests
        if len(self.test_records) not in (0, len(tests)):
            raise InputError(
                f"--test-records is given {len(self.test_records)} times for {len(tests)} test "
                "nets",
                hint="Give it once for each test net, in the solver's order, or not at all.",
            )
        counted: tuple[int | None, ...] = self.test_records
        counted = counted or tuple(count_records(test, sources) for test in tests)
        return PlanOptions(
            effective_batch=self.effective_batch,
            split=SplitOptions(
                self.tolerance, self.batch_size, self.iter_size, self.prefer_multiple_of
            ),
            schedule=ScheduleOptions(
                epochs=self.epochs,
                test_every=self.test_every,
                snapshot_every=self.snapshot_every,
                lr_scaling=LrScaling(self.lr_scaling),
                keep=self.keep_schedule,
                recipe_batch=self.recipe_batch,
            ),
            refused=frozenset(map(Cause, self.no_compensate)),
            train_records=self.train_records or count_records(recipe.train, sources),
            test_records=counted,
            growth=Schedule(self.schedule),
            max_batch=self.max_batch,
            keep_tests=self.keep_tests,
            own_gpus=None if recipe.solver_path is None else gpus_of_job(recipe.solver_path),
        )
