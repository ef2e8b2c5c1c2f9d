"""A run that trains for longer than planned: a larger max_iter in its last solver.

The solver and plan.json are changed together, and plan.json lists the change. The engine
continues from the newest snapshot as after any interruption. If it fails before it has made an
update, the job becomes what it was, so that trying again doesn't ask for even more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from caffe_batch import engines
from caffe_batch.errors import InputError, Option
from caffe_batch.files import read_regular
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import joined, read_job_stages
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import JobRecord
from caffe_batch.jobs.stages import TrainingStage, read_stages
from caffe_batch.net.recipe import Recipe
from caffe_batch.planning.edits.changes import applied
from caffe_batch.planning.edits.solver_fields import MAX_UPDATES
from caffe_batch.planning.schedule.longer import longer_changes, longer_notes


@dataclass(frozen=True)
class Longer:
    """How much longer to train; exactly one is given.

    Attributes:
        updates: This many more updates.
        epochs: This many more passes over the training data.
        in_all: This many updates in all.
    """

    updates: int | None = None
    epochs: Fraction | None = None
    in_all: int | None = None

    def length(self, plan: PlanFile, stage: TrainingStage) -> int:
        """The updates of the run in all.

        Args:
            plan: The plan of the job.
            stage: Its last stage.

        Raises:
            InputError: The length of an epoch isn't known, or the run already has that many
                updates.
        """
        before = stage.last_update
        if self.in_all is not None:
            length = self.in_all
        elif self.updates is not None:
            length = before + self.updates
        else:
            length = before + self._of_epochs(plan, stage)
        if not before < length <= MAX_UPDATES:
            limit = f"more than the {before:,} that it has now, and at most {MAX_UPDATES:,}"
            raise InputError(
                f"a run of {length:,} updates: a longer one has {limit}",
                hint=[
                    "For instance ", Option("updates", f"+{before}"), "; or "
                    "leave it out to continue an interrupted run.",
                ],
            )  # fmt: skip
        return length

    def _of_epochs(self, plan: PlanFile, stage: TrainingStage) -> int:
        records, batch = plan.train_records, stage.effective_batch
        if records is None or batch is None:
            raise InputError(
                [
                    Option("epochs"), ": the length of an epoch is not known, as the plan has no "
                    "number of training records, or of samples in an update",
                ],
                hint=["Give the number of updates instead: ", Option("updates", "+1000"), "."],
            )  # fmt: skip
        return max(1, round((self.epochs or 0) * Fraction(records, batch)))

    @property
    def words(self) -> str:
        """The reason of the changes."""
        if self.epochs is not None:
            one = self.epochs == 1
            return f"trained for {float(self.epochs):.4g} epoch{'' if one else 's'} longer"
        return "trained for longer"


def check_longer(
    job: JobDirectory,
    plan: PlanFile,
    stages: Sequence[TrainingStage],
    record: JobRecord | None,
    longer: Longer,
) -> None:
    """Refuse what can't be trained for longer, before anything is written.

    Raises:
        InputError: There is no snapshot to continue from, or the length is invalid.
    """
    longer.length(plan, stages[-1])
    read_job_stages(job, plan)
    updated = record is not None and record.updates_done > 0
    if updated and not engines.find(plan.engine).snapshots.list_snapshots(job.snapshots):
        raise InputError(
            f"{job.path}: the run left no snapshot, so it can't continue from its end",
            hint=[
                Option("restart", True), " begins again; with `snapshot_after_train: true` in "
                "the solver a run leaves one.",
            ],
        )  # fmt: skip


@dataclass(frozen=True)
class Lengthened:
    """A job that has become longer, and what it was before.

    Attributes:
        notes: What a person should know about it, a sentence or two each.
        texts: The files of the job that a training changes, as they were.
        updates: Updates of the run in all, until then.
        record: The record until then.
    """

    notes: tuple[str, ...]
    texts: Mapping[Path, str]
    updates: int
    record: JobRecord | None

    def undo(self, job: JobDirectory) -> tuple[str, ...]:
        """Make the job as long as before, unless updates have been recorded since; the lock is
        held.

        Smaller splits that failed too are undone with it; the attempts stay in job.json.

        Returns:
            A sentence about it, if there is anything to say.
        """
        record = job.read_record()
        earlier = self.record.attempts if self.record else ()
        attempts = record.attempts[len(earlier) :] if record else ()
        if any(attempt.last_update > attempt.first_update for attempt in attempts):
            return ()
        try:
            job.rewrite(self.texts)
            if record and attempts:
                state = record.state
                if self.record and record.updates_done >= self.record.updates_done:
                    state = self.record.state
                job.write_record(replace(record, state=state, updates=self.updates))
        except OSError as error:
            return (f"The run keeps its new length: {error.filename}: {error.strerror}.",)
        return (f"No update was made, so the run ends at update {self.updates:,} as before.",)


def lengthen(job: JobDirectory, before: JobRecord | None, longer: Longer) -> Lengthened:
    """Change the last solver of a job, and plan.json; the lock is held.

    Args:
        job: The directory.
        before: The record of the run so far.
        longer: How much longer to train it.
    """
    plan = job.read_plan()
    last, stages = read_stages(plan)[-1], read_job_stages(job, plan)
    length = longer.length(plan, last)
    recipe = stages[-1].recipe
    changes = longer_changes(recipe.solver, last.first_update, length, longer.words)
    lists = [list(stage.changes) for stage in stages]
    lists[-1] = joined(stages[-1].changes, changes)
    files = {job.plan, *(path for stage in stages for path in _files(stage.recipe))}
    kept = {path: read_regular(path).decode(errors="surrogateescape")
            for path in sorted(files) if path.parent == job.path}  # fmt: skip
    texts = stages[-1].texts(changes)
    job.rewrite({**texts, job.plan: plan.with_changes(lists).text})
    after = applied(recipe, changes).solver
    notes = (
        f"The run continues up to update {after.max_iter:,} instead of {recipe.solver.max_iter:,}.",
        *longer_notes(recipe.solver, after, before.updates_done if before else 0),
    )
    return Lengthened(notes, kept, last.last_update, before)


def _files(recipe: Recipe) -> Iterator[Path]:
    """The files of a recipe."""
    for path in (recipe.solver_path, recipe.train.path, *(test.path for test in recipe.tests)):
        if path is not None:
            yield path
