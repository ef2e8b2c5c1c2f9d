"""What a call asks for, and what follows from that: everything that planning starts from."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from caffe_batch import engines
from caffe_batch.api.arguments import Shapes
from caffe_batch.api.budgets import find_budget, with_snapshots
from caffe_batch.api.machines import counting
from caffe_batch.api.recipes import RecipeFiles, noted, with_solver
from caffe_batch.errors import InputError, Option
from caffe_batch.jobs.job_files import gpus_of_job
from caffe_batch.layers.base import Mode
from caffe_batch.layers.hints import TypeHints
from caffe_batch.memory import Build, MemoryModel
from caffe_batch.net import Recipe, Sources
from caffe_batch.net.assumed import fixed_batch
from caffe_batch.net.data.findings import Progress, no_progress
from caffe_batch.net.records import count_records
from caffe_batch.planning import (
    Budget,
    Cause,
    LrScaling,
    PlanOptions,
    ScheduleOptions,
    SplitOptions,
)
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.schedule.growth import Schedule
from caffe_batch.planning.shared import Shared
from caffe_batch.solver.checks import check_solver
from caffe_batch.training.checks import check_own_types, check_precision, check_shared


@dataclass(frozen=True)
class Prepared:
    """What follows from the arguments and the files: everything that planning starts from.

    Attributes:
        files: The files that were read.
        model: The memory model of the recipe, its solver included.
        budget: The memory allowed.
        options: What the user wants from the plan.
        solver_text: The solver from the template, if the user gave none.
        notes: How the files were found, one sentence each.
    """

    files: RecipeFiles
    model: MemoryModel
    budget: Budget
    options: PlanOptions
    solver_text: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What ``plan`` and ``strategies`` are asked for; the fields are their arguments."""

    net: str | Path
    solver: str | Path | None
    input_shape: Shapes
    allow_unknown: bool
    allow_unknown_fields: bool
    rules: tuple[Path, ...]
    fork: str | None
    treat_as: tuple[str, ...]
    same_shape: tuple[str, ...]
    run_python_layers: bool
    data: str | Path | None
    gpu_memory: str | int | None
    mode: Mode
    engine: str
    build: Build
    half: bool
    reserve: str | int | None
    gpu: int | None
    effective_batch: int | None
    epochs: Fraction | None
    test_every: Fraction | None
    recipe_batch: int | None
    train_records: int | None
    test_records: tuple[int, ...]
    gpus: int = 1
    tolerance: Fraction = Fraction(0)
    batch_size: int | None = None
    iter_size: int | None = None
    prefer_multiple_of: int = 1
    snapshot_every: Fraction | None = None
    lr_scaling: LrScaling = LrScaling.NONE
    schedule: Schedule = Schedule.DECAY
    max_batch: int | None = None
    keep_schedule: bool = False
    keep_tests: bool = False
    shrink_tests: bool = False
    no_compensate: tuple[Cause, ...] = ()
    precision: Precision = Precision.FLOAT32
    shared: tuple[Shared, ...] = ()

    def prepare(self, progress: Progress = no_progress) -> Prepared:
        """Reads the files.

        Args:
            progress: As for :func:`caffe_batch.api.plan`; called later, too.

        Raises:
            InputError: Arguments contradict each other, or the files don't allow a plan.
        """
        self._check()
        files = RecipeFiles(
            self.net,
            self.solver,
            self.input_shape,
            allow_unknown=self.allow_unknown,
            allow_unknown_fields=self.allow_unknown_fields,
            rules=self.rules,
            batch_size=self.batch_size,
            fork=self.fork,
            hints=TypeHints.of(self.treat_as, self.same_shape),
            run_python_layers=self.run_python_layers,
            data=self.data,
            engine=self.engine,
        )
        with noted(files.recipe.notes):
            return self._prepare(files, progress)

    def _prepare(self, files: RecipeFiles, progress: Progress) -> Prepared:
        engine = engines.find(self.engine)
        check_precision(engine, self.precision)
        check_shared(engine, self.shared)
        check_own_types((files.recipe.train, *files.recipe.tests), engine)
        gpu = files.recipe.solver.device_id if self.gpu is None else self.gpu
        budget = find_budget(self.gpu_memory, self.reserve, self.mode, gpu)
        sources = files.sources
        recipe, made = with_solver(
            files.recipe, sources, self.effective_batch,
            allow_unknown=files.allow_unknown, template=files.template,
        )  # fmt: skip
        check_solver(recipe.solver, recipe.solver_path, needs_length=False)
        model = engine.memory_model(
            recipe, sources, self.mode,
            allow_unknown=files.allow_unknown, build=self.build, gpus=self.gpus, half=self.half,
            count=counting(self.engine, progress),
        )  # fmt: skip
        budget = with_snapshots(budget, self.reserve, model)
        options = self._options(recipe, sources, files.allow_unknown)
        notes = (*recipe.notes, made.note) if made else recipe.notes
        return Prepared(files, model, budget, options, made.text if made else None, notes)

    def _check(self) -> None:
        """Refuses arguments that contradict each other."""
        lengths = {
            "epochs": self.epochs,
            "test_every": self.test_every,
            "snapshot_every": self.snapshot_every,
            "lr_scaling": None if self.lr_scaling is LrScaling.NONE else self.lr_scaling,
            "recipe_batch": self.recipe_batch,
        }
        given = [name for name, value in lengths.items() if value is not None]
        if self.keep_schedule and given:
            raise _contradiction(Option("keep_schedule"), Option(given[0]))
        if self.schedule is Schedule.DECAY and self.max_batch is not None:
            raise InputError(
                [Option("max_batch"), " is for a batch that grows"],
                hint=[
                    "Add ", Option("schedule", "grow"), " or ", Option("schedule", "hybrid"), ".",
                ],
            )  # fmt: skip
        if self.schedule is not Schedule.DECAY:
            self._check_growth()
        if self.keep_tests and self.shrink_tests:
            raise _contradiction(Option("keep_tests"), Option("shrink_tests"))
        if self.keep_tests and self.test_records:
            raise InputError(
                [Option("keep_tests"), " and ", Option("test_records"), " contradict each other"],
                hint="The number of test records only matters if test batches are planned.",
            )

    def _check_growth(self) -> None:
        """Refuses what can't be combined with a batch that grows."""
        grows = Option("schedule", self.schedule.value)
        if self.iter_size is not None:
            raise InputError(
                [
                    Option("iter_size", self.iter_size), " and ", grows,
                    " contradict each other: the batch grows by a larger iter_size in each stage",
                ],
                hint=[
                    "Leave ", Option("iter_size"), " out; ", Option("batch_size"),
                    " says how many samples a pass has.",
                ],
            )  # fmt: skip
        if self.keep_schedule:
            raise _contradiction(Option("keep_schedule"), grows)

    def _options(self, recipe: Recipe, sources: Sources, allow_unknown: bool) -> PlanOptions:
        tests = recipe.tests
        if len(self.test_records) not in (0, len(tests)):
            raise InputError(
                [
                    Option("test_records"),
                    f" is given {len(self.test_records)} times for {len(tests)} test nets",
                ],
                hint="Give it once for each test net, in the solver's order, or not at all.",
            )
        counted: tuple[int | None, ...] = self.test_records
        counted = counted or tuple(count_records(test, sources) for test in tests)
        batch_size = self.batch_size
        if batch_size is None:
            layers = recipe.train.layers(sources, allow_unknown=allow_unknown)
            batch_size = fixed_batch(layers)
        return PlanOptions(
            audit=partial(
                engines.find(self.engine).audit, precision=self.precision, shared=self.shared
            ),
            precision=self.precision,
            shared=self.shared,
            effective_batch=self.effective_batch,
            split=SplitOptions(self.tolerance, batch_size, self.iter_size, self.prefer_multiple_of),
            schedule=ScheduleOptions(
                epochs=self.epochs,
                test_every=self.test_every,
                snapshot_every=self.snapshot_every,
                lr_scaling=self.lr_scaling,
                keep=self.keep_schedule,
                recipe_batch=self.recipe_batch,
            ),
            refused=frozenset(self.no_compensate),
            train_records=self.train_records or count_records(recipe.train, sources),
            test_records=counted,
            growth=self.schedule,
            max_batch=self.max_batch,
            keep_tests=self.keep_tests,
            shrink_tests=self.shrink_tests,
            own_gpus=None if recipe.solver_path is None else gpus_of_job(recipe.solver_path),
        )


def _contradiction(one: Option, other: Option) -> InputError:
    return InputError([one, " and ", other, " contradict each other"], hint="Give one of them.")
