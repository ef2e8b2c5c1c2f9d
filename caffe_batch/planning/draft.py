"""A split with its test batches becomes a draft: the audit, all changes, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from caffe_batch.memory.base import Prediction
from caffe_batch.planning.audit.findings import Finding, compensations
from caffe_batch.planning.edits.changes import Change, applied, batch_changes, iter_size_change
from caffe_batch.planning.goal import Goal
from caffe_batch.planning.plan import TestSplit
from caffe_batch.planning.schedule.growth import PlannedStage, Schedule, grow
from caffe_batch.planning.schedule.rescaling import schedule_changes
from caffe_batch.planning.schedule.stage_changes import stage_changes
from caffe_batch.planning.split.candidates import Candidate
from caffe_batch.planning.split.net_tests import NetTest, changes_of_tests, finding_of_test
from caffe_batch.solver.decay import StepDecay, step_decay


@dataclass(frozen=True)
class Choice:
    """Batch sizes of the train net and of the test nets together.

    Attributes:
        split: The split of the effective batch.
        tests: The test nets whose batches are planned.
        test_sizes: The batch size of each of these.
        roomy: The test nets whose own batch, larger than the one here, would fit as well.
    """

    split: Candidate
    tests: tuple[NetTest, ...]
    test_sizes: tuple[int, ...]
    roomy: tuple[int, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A choice with everything that changes for it, and the memory that results.

    Attributes:
        choice: The batch sizes.
        findings: What accumulation and other test batches change.
        changes: What changes in the files; for a growing batch, in those of the first stage.
        stages: The stages of a growing batch; empty if it doesn't grow.
        prediction: The memory of the changed files; for a growing batch, of the stage that takes
            the most.
    """

    choice: Choice
    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    stages: tuple[PlannedStage, ...]
    prediction: Prediction

    def settled(self, usable_bytes: int) -> Candidate:
        """The split with the memory that it finally takes, and whether that fits."""
        return replace(
            self.choice.split,
            fits=self.prediction.allocated_bytes <= usable_bytes,
            predicted_peak_bytes=self.prediction.peak_bytes,
        )

    @property
    def tests(self) -> tuple[TestSplit, ...]:
        """The batches of the test nets."""
        return tuple(
            TestSplit(test.number, size, test.iter_for(size), test.records)
            for test, size in zip(self.choice.tests, self.choice.test_sizes, strict=True)
        )


def make_draft(goal: Goal, choice: Choice) -> Draft:
    """Everything that a choice changes, and the memory it then takes.

    Args:
        goal: What is asked for.
        choice: The batch sizes.

    Raises:
        InputError: The schedule can't be made for this split.
    """
    model, recipe, split = goal.model, goal.model.recipe, choice.split
    batches = each_once(
        *batch_changes(recipe, model.train_layers, split.batch_size),
        *changes_of_tests(recipe, model, choice.tests, choice.test_sizes, choice.roomy),
    )
    stages = _stages(goal, split, batches)
    findings = _audited(goal, split, stages[-1].stage.iter_size if stages else None)
    if stages:
        changes = stages[0].changes
    else:
        scale = goal.scale(split.effective_batch)
        changes = each_once(
            *batches,
            *iter_size_change(recipe.solver, split.iter_size),
            *schedule_changes(recipe.solver, scale, goal.options.schedule),
            *compensations(findings),
        )
    # Compensations may cost memory.
    variants = {changes, stages[-1].changes} if stages else {changes}
    predictions = [model.with_recipe(applied(recipe, each)).at() for each in variants]
    tested = zip(choice.tests, choice.test_sizes, strict=True)
    of_tests = filter(None, (finding_of_test(model, *each) for each in tested))
    return Draft(
        choice=choice,
        findings=(*findings, *of_tests),
        changes=changes,
        stages=stages,
        prediction=max(predictions, key=lambda prediction: prediction.allocated_bytes),
    )


def recipe_decay(goal: Goal, split: Candidate) -> StepDecay:
    """The drops of the recipe's rate, over the epochs asked for.

    Raises:
        InputError: The recipe has no drops that a batch could grow at.
    """
    scale = goal.scale(split.effective_batch)
    decay = step_decay(goal.model.recipe.solver, scale.records, scale.own_batch)
    return decay.lasting(goal.options.schedule.epochs or decay.epochs)


def _audited(goal: Goal, split: Candidate, iter_size: int | None) -> tuple[Finding, ...]:
    """The findings for a split, with its own iter_size or that of a later stage."""
    return goal.options.audit(
        goal.model,
        batch_size=split.batch_size,
        iter_size=iter_size or split.iter_size,
        gpus=goal.model.gpus,
        own_gpus=goal.files_gpus(split.effective_batch),
        summed_iter=goal.options.summed_iter or split.iter_size,
        refused=goal.options.refused,
    )


def _stages(goal: Goal, split: Candidate, batches: tuple[Change, ...]) -> tuple[PlannedStage, ...]:
    """The stages of a growing batch, each with all its changes; empty if it doesn't grow."""
    options = goal.options
    if options.growth is Schedule.DECAY:
        return ()
    decay, ratio = recipe_decay(goal, split), goal.scale(split.effective_batch).ratio
    factor = options.schedule.lr_scaling.factor(1 / ratio)
    stages = grow(
        replace(decay, base_lr=decay.base_lr * Fraction(factor)),
        effective_batch=split.effective_batch,
        pass_samples=split.batch_size * goal.sharing.each,
        schedule=options.growth,
        max_batch=options.max_batch,
        sharing=goal.sharing,
    )
    of_solver = stage_changes(goal.model.recipe.solver, decay, stages, options.schedule.lengths)
    return tuple(
        PlannedStage(
            stage,
            each_once(*batches, *own, *compensations(_audited(goal, split, stage.iter_size))),
        )
        for stage, own in zip(stages, of_solver, strict=True)
    )


def each_once(*changes: Change) -> tuple[Change, ...]:
    """The changes without duplicates, which nets that share a layer and the audit both ask for."""
    found: dict[object, Change] = {}
    for change in changes:
        found.setdefault((change.place, change.after), change)
    return tuple(found.values())
