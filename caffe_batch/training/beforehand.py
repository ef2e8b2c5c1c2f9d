"""What is checked before a run begins: the files that it starts from, and its data.

Nothing is written or deleted until everything has been found in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffe_batch.engines.base import Engine
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import job_recipe
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import JobRecord
from caffe_batch.jobs.stages import TrainingStage, stage_at
from caffe_batch.net.data.check import check_data
from caffe_batch.net.data.findings import DataReport
from caffe_batch.net.graph import Net
from caffe_batch.net.recipe import Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training.checks import check_is_fed, check_layer_types
from caffe_batch.training.options import Options
from caffe_batch.training.start import starting_point


@dataclass(frozen=True)
class Beforehand:
    """What the checks before a run found.

    Attributes:
        notes: What the user should know, one sentence each.
        records: How many records each source has now, by its name in the net.
    """

    notes: tuple[str, ...] = ()
    records: Mapping[str, int] = field(default_factory=dict)


def look_ahead(
    job: JobDirectory,
    plan: PlanFile,
    stages: Sequence[TrainingStage],
    before: JobRecord | None,
    options: Options,
    engine: Engine,
    runtime: Runtime,
) -> Beforehand:
    """Check everything that a run needs, as far as it can be checked without Caffe.

    Args:
        job: The directory.
        plan: What plan.json says.
        stages: Its solvers.
        before: The record of the run that is continued; None for a new one.
        options: How to train.
        engine: What trains.
        runtime: The Python to train on.

    Raises:
        InputError: Caffe couldn't start, or would later abort because of the data. The message
            says why.
    """
    try:
        recipe = job_recipe(job, stages[0].path, stages[0].rules)
    except InputError:
        return Beforehand()  # Caffe itself reports what is wrong with its net
    check_is_fed(recipe)
    check_layer_types((recipe.train, *recipe.tests), engine, runtime)
    directory = plan.working_directory if plan.working_directory.is_dir() else job.path
    sources = plan.sources(directory)
    _check_start(engine, options, recipe, sources, directory, stages)
    report = check_data(
        recipe, Sources((directory,)), extent=options.check_data, allow_unknown=True
    )
    report.raise_errors()
    records = {look.source: look.records for look in report.looks}
    return Beforehand((*report.warnings(), *_changed(records, plan, before, report)), records)


def _check_start(
    engine: Engine,
    options: Options,
    recipe: Recipe,
    sources: Sources,
    directory: Path,
    stages: Sequence[TrainingStage],
) -> None:
    """Check the weights and the snapshot that were asked for, or that the solver names."""
    named = [directory / name for name in recipe.solver.weights]
    if not (options.weights or options.snapshot or named):
        return
    asked = starting_point(options.weights, options.snapshot, None, has_snapshots=False)
    nets = _nets(recipe, sources)
    for path in options.weights or (named if options.snapshot is None else ()):
        engine.check_weights(path, nets)
    snapshot = asked.snapshot(stages[-1].last_update, engine.snapshots)
    if snapshot and nets:
        engine.check_state(snapshot, nets[0], stage_at(stages, snapshot.update).solver.type)


def _nets(recipe: Recipe, sources: Sources) -> list[Net]:
    """The train net and the test nets; empty if they can't be built without Caffe."""
    try:
        return [
            file.build(file.layers(sources, allow_unknown=True))
            for file in (recipe.train, *recipe.tests)
        ]
    except CaffeBatchError:
        return []


def _changed(
    records: Mapping[str, int], plan: PlanFile, before: JobRecord | None, report: DataReport
) -> Iterator[str]:
    """Sources whose number of records isn't what the run or the plan expected."""
    known = before.attempts[-1].records if before and before.attempts else None
    when = "when it ran last"
    if known is None:
        first = report.looks[:1]
        known = {look.source: plan.train_records for look in first if plan.train_records}
        when = "when it was planned"
    for source, number in known.items():
        now = records.get(source, number)
        if now != number:
            yield (
                f"The data has changed: {source!r} has {now:,} records, but had {number:,} {when}. "
                "Epochs are counted with the plan's number; the place where the data continues "
                "is computed with the new one."
            )
