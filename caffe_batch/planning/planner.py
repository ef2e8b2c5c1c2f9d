"""Makes a plan: the split, the test batches, the schedule and the compensations, and what fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from caffe_batch.errors import InputError, NetError
from caffe_batch.memory.model import Prediction
from caffe_batch.memory.predict import CaffeMemory
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding, compensations
from caffe_batch.planning.audit.summed_losses import sums_remark
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.edits.changes import Change, applied, batch_changes, iter_size_change
from caffe_batch.planning.plan import Plan, TestSplit
from caffe_batch.planning.schedule.growth import PlannedStage, Schedule, grow
from caffe_batch.planning.schedule.rescaling import (
    LrScaling,
    Rescaling,
    ScheduleOptions,
    rate_advice,
    schedule_changes,
    schedule_remarks,
)
from caffe_batch.planning.schedule.stage_changes import growth_remarks, stage_changes
from caffe_batch.planning.split.candidates import (
    Candidate,
    Sharing,
    SplitOptions,
    choose,
    good_neighbours,
    make_candidates,
    split_remarks,
)
from caffe_batch.planning.split.net_tests import (
    changes_of_tests,
    finding_of_test,
    largest_that_fit,
    planned_tests,
    smallest,
)
from caffe_batch.planning.split.no_fit import does_not_fit
from caffe_batch.solver.decay import StepDecay, step_decay

#: Test batches make room for the train net down to this size; below only if nothing fits else.
SMALLEST_TEST_BATCH = 8

#: From this change of the effective batch on, the learning rate is worth a remark.
WORTH_A_WORD = Fraction(1, 20)


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is to be.

    Attributes:
        effective_batch: Samples per update; None for the files' own batch_size x iter_size x GPUs
            (for NVCaffe without the GPUs).
        split: Of the split.
        schedule: Of the schedule.
        refused: What is not to be compensated.
        train_records: Records of the train source, where known.
        test_records: Records of each test net's source, None where unknown.
        growth: What becomes of the drops of the recipe's rate.
        max_batch: The largest effective batch that growth may reach; a tenth of the records if
            None.
        keep_tests: Leave the test nets' batches and test_iter as they are, where they don't read
            through the train net's own data layer.
        own_gpus: GPUs that the files were planned for; None if nobody knows.
        summed_iter: Passes that losses which are sums are meant over; those of an update (where
            the batch grows, of its first stage) if None.
    """

    effective_batch: int | None = None
    split: SplitOptions = field(default_factory=SplitOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    refused: frozenset[Cause] = frozenset()
    train_records: int | None = None
    test_records: tuple[int | None, ...] = ()
    growth: Schedule = Schedule.DECAY
    max_batch: int | None = None
    keep_tests: bool = False
    own_gpus: int | None = None
    summed_iter: int | None = None


def make_plan(model: CaffeMemory, budget: Budget, options: PlanOptions | None = None) -> Plan:
    """The split with the fewest passes that fits, and everything that has to change for it.

    Args:
        model: The memory model of the recipe.
        budget: The memory allowed on each GPU.
        options: What the plan is to be; the defaults if None.

    Raises:
        DoesNotFitError: Not even the smallest split fits.
        InputError: No split makes the effective batch, options contradict each other, or the net
            has no loss.
    """
    options = options or PlanOptions()
    check_has_loss(model)
    planner = _Planner(model, budget, options, SMALLEST_TEST_BATCH)
    found = planner.best() or _Planner(model, budget, options, 1).best()
    if found is None:
        raise does_not_fit(planner.lean, budget, planner.smallest_candidates())
    return found


@dataclass(frozen=True)
class _Draft:
    """A split with all that changes for it, and the memory that comes of it."""

    prediction: Prediction
    findings: tuple[Finding, ...]
    tests: tuple[TestSplit, ...]
    changes: tuple[Change, ...]
    stages: tuple[PlannedStage, ...]


class _Planner:
    """What stays the same while splits are tried."""

    def __init__(
        self, model: CaffeMemory, budget: Budget, options: PlanOptions, floor: int
    ) -> None:
        self.model, self.budget, self.options, self.floor = model, budget, options, floor
        self.sharing = Sharing(model.gpus, model.divides_batch)
        self.wanted = self._wanted()
        number = len(model.recipe.tests)
        known = (*options.test_records, *(None,) * number)[:number]
        known = (None,) * number if options.keep_tests else known
        # Through a data layer that it shares with the train net a test gets that one's batch.
        self.tests = [
            test for test in planned_tests(model, known) if test.shared or not options.keep_tests
        ]
        self.smallest_tests = smallest(self.tests, number, floor)
        #: With the smallest test batches: what fits at all fits with them.
        self.lean = model.with_test_batches(self.smallest_tests)

    def best(self) -> Plan | None:
        """The plan of the best split that fits; None if none does."""
        candidates = self._make_candidates(self.options.split)
        if all(candidate.predicted_peak_bytes is None for candidate in candidates):
            self.lean.at(candidates[-1].batch_size)  # raises what Caffe refuses
        while True:
            chosen = choose(candidates, self.wanted, self.options.split.prefer_multiple_of)
            if chosen is None:
                return None
            draft = self.draft(chosen)
            settled = replace(
                chosen,
                fits=draft.prediction.allocated_bytes <= self.budget.usable_bytes,
                predicted_peak_bytes=draft.prediction.peak_bytes,
            )
            candidates[candidates.index(chosen)] = settled
            if settled.fits:
                return self.plan(candidates, settled, draft)

    def smallest_candidates(self) -> list[Candidate]:
        """The smallest batch_size that Caffe builds, and smaller ones, which it refuses."""
        candidates = self._make_candidates(self.options.split)
        built = [n for n, each in enumerate(candidates) if each.predicted_peak_bytes is not None]
        return candidates[built[-1] :]

    def draft(self, chosen: Candidate) -> _Draft:
        """Everything that a split changes, and what it then costs."""
        model, recipe, size = self.model, self.model.recipe, chosen.batch_size
        sizes = largest_that_fit(
            self.tests, self.smallest_tests, self.floor, lambda s: self._fits(size, s)
        )
        test_sizes = [size if test.shared else sizes[test.number] or 0 for test in self.tests]
        split = _each_once(
            *batch_changes(recipe, model.train_layers, size),
            *changes_of_tests(recipe, model, self.tests, test_sizes),
        )
        stages = self._stages(chosen, split)
        findings = self._audit(chosen, stages[-1].stage.iter_size if stages else chosen.iter_size)
        if stages:
            changes = stages[0].changes
        else:
            changes = _each_once(
                *split,
                *iter_size_change(recipe.solver, chosen.iter_size),
                *schedule_changes(recipe.solver, self.scale(chosen), self.options.schedule),
                *compensations(findings),
            )
        # Where one pass is accumulated with others, compensations may cost memory.
        variants = {changes, stages[-1].changes} if stages else {changes}
        tested = zip(self.tests, test_sizes, strict=True)
        return _Draft(
            max((self._predict(each) for each in variants), key=lambda p: p.allocated_bytes),
            (*findings, *filter(None, (finding_of_test(model, *each) for each in tested))),
            tuple(
                TestSplit(test.number, each, test.iter_for(each), test.records)
                for test, each in zip(self.tests, test_sizes, strict=True)
            ),
            changes,
            stages,
        )

    def plan(self, candidates: Sequence[Candidate], chosen: Candidate, draft: _Draft) -> Plan:
        """The plan of a draft that fits."""
        model, records = self.model, self.options.train_records
        if records is not None and chosen.effective_batch > records:
            raise InputError(
                f"an effective batch of {chosen.effective_batch} is more than the {records} "
                "records of the training data",
                hint="Give a smaller --effective-batch, or --train-records if they are more.",
            )
        return Plan(
            requested_effective_batch=self.wanted,
            recipe_batch=self.scale(chosen).own_batch,
            chosen=chosen,
            gpus=model.gpus,
            budget=self.budget,
            mode=model.mode,
            engine=model.engine,
            build=model.build,
            divides_batch=model.divides_batch,
            rounding_bytes=draft.prediction.rounding_bytes,
            uncertain_bytes=draft.prediction.uncertain_bytes,
            candidates=tuple(candidates),
            findings=draft.findings,
            tests=draft.tests,
            changes=draft.changes,
            remarks=(*self._split_remarks(chosen), *self._schedule_remarks(chosen, draft)),
            stages=draft.stages,
            train_records=records,
            lower_bound=bool(draft.prediction.unknown_layers),
            half=model.half,
            allow_unknown=model.allow_unknown,
            refused=self.options.refused,
        )

    def scale(self, chosen: Candidate) -> Rescaling:
        """From the recipe's updates to those of a split."""
        return Rescaling(
            self._recipe_batch(chosen), chosen.effective_batch, self.options.train_records
        )

    def _wanted(self) -> int:
        """The effective batch that is asked for."""
        options, own_iter = self.options, self.model.recipe.solver.iter_size
        if options.effective_batch is not None:
            return options.effective_batch
        split = options.split
        if split.batch_size is not None and split.iter_size is not None:
            return split.batch_size * split.iter_size * self.sharing.each
        if options.schedule.recipe_batch is not None:
            return options.schedule.recipe_batch
        if own_iter < 1:
            raise InputError(
                f"the solver has iter_size {own_iter}, and an update takes at least one pass",
                hint="Correct it, or give --effective-batch N: the plan sets iter_size.",
            )
        return self._own_batch() * self._each(options.own_gpus or self.model.gpus)

    def _recipe_batch(self, chosen: Candidate) -> int:
        """Samples per update that the files' schedule was written for."""
        given = self.options.schedule.recipe_batch
        if given is not None:
            return given
        if self.model.recipe.solver_path is None:  # the template's is made for the plan's batch
            return self.wanted
        return self._own_batch() * self._each(self._own_gpus(chosen))

    def _own_gpus(self, chosen: Candidate) -> int:
        """GPUs that the files are for.

        A recipe for several GPUs and one for a single GPU look alike, unless they are of a job:
        where the files with these GPUs have the effective batch that they are known to have, or
        that of the plan, they are for these GPUs. So are NVCaffe's, whose batches stay whatever
        the GPUs.
        """
        if self.options.own_gpus is not None:
            return self.options.own_gpus
        if self.sharing.divided:
            return self.model.gpus
        given = self.options.schedule.recipe_batch
        known = (self.wanted, chosen.effective_batch) if given is None else (given,)
        return self.model.gpus if self._own_batch() * self.sharing.each in known else 1

    def _each(self, gpus: int) -> int:
        """Samples per update of so many GPUs for each of batch_size x iter_size."""
        return replace(self.sharing, gpus=gpus).each

    def _own_batch(self) -> int:
        """Samples per update of the files as they are, on a single GPU (NVCaffe: on all)."""
        return self.model.batch_size * max(1, self.model.recipe.solver.iter_size)

    def _make_candidates(self, options: SplitOptions) -> list[Candidate]:
        return make_candidates(
            self.wanted, self.sharing, options, self.budget.usable_bytes, self.lean.peaks
        )

    def _fits(self, size: int, test_sizes: tuple[int | None, ...]) -> bool:
        sized = self.model.with_test_batches(test_sizes)
        return sized.at(size).allocated_bytes <= self.budget.usable_bytes

    def _predict(self, changes: tuple[Change, ...]) -> Prediction:
        """The memory of the files with these changes."""
        recipe = applied(self.model.recipe, changes)
        return replace(self.model, recipe=recipe, test_batches=()).at()

    def _audit(self, chosen: Candidate, iter_size: int) -> tuple[Finding, ...]:
        return audit(
            self.model,
            batch_size=chosen.batch_size,
            iter_size=iter_size,
            gpus=self.model.gpus,
            own_gpus=self._own_gpus(chosen),
            summed_iter=self.options.summed_iter or chosen.iter_size,
            refused=self.options.refused,
        )

    def _decay(self, chosen: Candidate) -> StepDecay:
        """The drops of the recipe's rate, over the epochs that are wanted."""
        scale = self.scale(chosen)
        decay = step_decay(self.model.recipe.solver, scale.records, scale.own_batch)
        return decay.lasting(self.options.schedule.epochs or decay.epochs)

    def _stages(self, chosen: Candidate, split: tuple[Change, ...]) -> tuple[PlannedStage, ...]:
        """The stages of a growing batch, each with all its changes; none where it stays."""
        options, solver = self.options, self.model.recipe.solver
        if options.growth is Schedule.DECAY:
            return ()
        decay = self._decay(chosen)
        factor = options.schedule.lr_scaling.factor(1 / self.scale(chosen).ratio)
        stages = grow(
            replace(decay, base_lr=decay.base_lr * Fraction(factor)),
            effective_batch=chosen.effective_batch,
            pass_samples=chosen.batch_size * self.sharing.each,
            schedule=options.growth,
            max_batch=options.max_batch,
            sharing=self.sharing,
        )
        changes = stage_changes(solver, decay, stages, options.schedule.lengths)
        return tuple(
            PlannedStage(
                stage,
                _each_once(*split, *own, *compensations(self._audit(chosen, stage.iter_size))),
            )
            for stage, own in zip(stages, changes, strict=True)
        )

    def _split_remarks(self, chosen: Candidate) -> Iterator[str]:
        split, near = self.options.split, list[Candidate]()
        if not split.tolerance and not split.pinned:
            near = good_neighbours(
                self.wanted, self.sharing, chosen, self.budget.usable_bytes, self.lean.peaks
            )
        return split_remarks(self.wanted, chosen, near, self.sharing, split.prefer_multiple_of)

    def _schedule_remarks(self, chosen: Candidate, draft: _Draft) -> Iterator[str]:
        options, recipe, scale = self.options.schedule, self.model.recipe, self.scale(chosen)
        if draft.stages:
            stages = [each.stage for each in draft.stages]
            yield from growth_remarks(recipe.solver, self._decay(chosen), stages, options.lengths)
        else:
            yield from schedule_remarks(recipe.solver, applied(recipe, draft.changes).solver)
        yield from self._gpus_remark(chosen)
        sums = sums_remark(self.model, chosen.batch_size, 1 / scale.ratio)
        if sums:
            yield sums
        scaled = options.lr_scaling is not LrScaling.NONE
        if abs(1 / scale.ratio - 1) > WORTH_A_WORD and (scaled or not sums):
            yield rate_advice(recipe.solver.type, 1 / scale.ratio, options.lr_scaling)

    def _gpus_remark(self, chosen: Candidate) -> Iterator[str]:
        """For how many GPUs the files are taken to be, where nobody has told."""
        gpus, told = self.model.gpus, self.options.schedule.recipe_batch or self.options.own_gpus
        if gpus == 1 or told is not None or self.sharing.divided:
            return
        for_one, for_all = self._own_batch(), self._own_batch() * self.sharing.each
        one = f"one GPU, {for_one} samples an update", for_one
        several = f"{gpus} GPUs, {for_all} samples an update", for_all
        taken, other = (one, several) if self._own_gpus(chosen) == 1 else (several, one)
        yield (
            f"The files are taken to be for {taken[0]}; --recipe-batch {other[1]}: for {other[0]}."
        )


def _each_once(*changes: Change) -> tuple[Change, ...]:
    """The changes without repetitions: nets that share a layer, and the audit, each ask for one."""
    found: dict[object, Change] = {}
    for change in changes:
        found.setdefault((change.place, change.after), change)
    return tuple(found.values())


def check_has_loss(model: CaffeMemory) -> None:
    """Raises a NetError if nothing in the train net is a loss: there is nothing to train."""
    if not model.has_loss:
        raise NetError(
            "the TRAIN net has no loss, so there is nothing to train",
            hint="Add a loss layer such as SoftmaxWithLoss, or a loss_weight; is this a deploy "
            "file? Training needs the train_val one.",
        )
