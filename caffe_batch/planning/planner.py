"""Makes a plan, one step after the other.

What is asked for -> candidates of train and test batches together -> the choice -> the edits with
the audit -> the plan. The candidates come in order of preference; the first whose edited files fit
becomes the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from caffe_batch.errors import DoesNotFitError, InputError, NetError, Option, ShapeError
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net.assumed import assumptions
from caffe_batch.net.graph import rule_of
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.chance import chance_loss
from caffe_batch.planning.draft import Choice, Draft, make_draft
from caffe_batch.planning.goal import Goal, find_goal
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.remarks import remarks_of
from caffe_batch.planning.split.candidates import (
    Candidate,
    good_neighbours,
    make_candidates,
    ranked,
)
from caffe_batch.planning.split.net_tests import (
    NetTest,
    TestGroup,
    group_tests,
    largest_that_fit,
    planned_tests,
    smallest,
)
from caffe_batch.planning.split.no_fit import does_not_fit
from caffe_batch.sizes import format_size
from caffe_batch.solver.testing import runs_tests


def make_plan(
    model: MemoryModel,
    budget: Budget,
    options: PlanOptions | None = None,
) -> Plan:
    """The split with the fewest passes that fits, and everything that has to change for it.

    Test batches shrink to make room for it, down to 1, and more memory never means more passes.
    Those that a score depends on shrink only if nothing fits otherwise, or if the options let
    them: from the budget on at which they can stay, they do, even if that costs passes; a remark
    then says how many, and what gives the others.

    Args:
        model: The memory model of the recipe.
        budget: The memory allowed on each GPU.
        options: What the user asks of the plan; the defaults if None.

    Raises:
        DoesNotFitError: Not even the smallest split fits.
        InputError: No split makes the effective batch, options contradict each other, or the net
            has no loss.
    """
    check_has_loss(model)
    goal = find_goal(model, options or PlanOptions())
    table = _candidate_table(goal, budget, keeps_bound=not goal.options.shrink_tests)
    found = _best(goal, budget, table)
    if not table.kept:
        if found is None:
            raise _does_not_fit(goal, budget, table)
        return _plan_of(goal, budget, found)
    free = _candidate_table(goal, budget, keeps_bound=False)
    other = _best(goal, budget, free)
    if found is not None:
        return _plan_of(goal, budget, found, _price_of_tests(table, found, other))
    if other is None:
        raise _does_not_fit(goal, budget, free)
    return _plan_of(goal, budget, other, _shrunk_tests(goal, table, other))


@dataclass(frozen=True)
class _Table:
    """Every split that may be taken, with the smallest test batches beside it.

    Attributes:
        candidates: The splits, largest batch_size first.
        tests: The test nets whose batches are planned.
        groups: Those with batches of their own, and the sizes that these may have.
        test_sizes: The smallest of these sizes, one per test net of the model.
        lean: The model with these sizes: whatever fits at all fits with them.
        kept: The test nets that keep their batch because a score depends on it.
    """

    candidates: tuple[Candidate, ...]
    tests: tuple[NetTest, ...]
    groups: tuple[TestGroup, ...]
    test_sizes: tuple[int | None, ...]
    lean: MemoryModel
    kept: tuple[NetTest, ...] = ()

    def smallest(self) -> tuple[Candidate, ...]:
        """The smallest batch_size that Caffe accepts, and the smaller ones, which it refuses."""
        built = [
            number
            for number, each in enumerate(self.candidates)
            if each.predicted_peak_bytes is not None
        ]
        return self.candidates[built[-1] :]


@dataclass(frozen=True)
class _Best:
    """The first split of a table that fits with everything that changes for it.

    Attributes:
        table: Where it comes from.
        tried: The splits up to it, each with the memory that it finally takes.
        draft: What changes for it.
    """

    table: _Table
    tried: tuple[Candidate, ...]
    draft: Draft

    @property
    def split(self) -> Candidate:
        """The split."""
        return self.tried[-1]


def _best(goal: Goal, budget: Budget, table: _Table) -> _Best | None:
    """The best split of a table; None if none fits."""
    tried: list[Candidate] = []
    preferred = goal.options.split.prefer_multiple_of
    for split in ranked(table.candidates, goal.effective_batch, preferred):
        draft = _draft_of(goal, budget, table, split)
        tried.append(draft.settled(budget.usable_bytes))
        if tried[-1].fits:
            return _Best(table, tuple(tried), draft)
    return None


def _price_of_tests(table: _Table, found: _Best, other: _Best | None) -> tuple[str, ...]:
    """What it costs that test nets keep their batch; nothing if it costs no pass."""
    if other is None or other.split.iter_size >= found.split.iter_size:
        return ()
    sizes = {test.number: test.batch_size for test in other.draft.tests}
    smaller = [test for test in table.kept if sizes[test.number] < test.own_size]
    return tuple(
        f"Test net {test.number} keeps its batch of {test.own_size}, as its score depends on it: "
        f"{test.bound}. That costs passes: {_pair(found.split)} instead of {_pair(other.split)}, "
        f"which --shrink-tests gives, with test batches of {sizes[test.number]}."
        for test in smaller
    )


def _shrunk_tests(goal: Goal, table: _Table, other: _Best) -> tuple[str, ...]:
    """Why test nets get another batch although a score depends on it, and from when on not."""
    smallest_split = table.smallest()[0]
    choice = _choice(table.tests, smallest_split, table.test_sizes)
    try:
        needed = make_draft(goal, choice).prediction.allocated_bytes
    except ShapeError:  # a test batch that no blob holds: its change says so
        return ()
    sizes = {test.number: test.batch_size for test in other.draft.tests}
    return tuple(
        f"Test net {test.number} gets batches of {sizes[test.number]} instead of {test.own_size}, "
        f"although its score depends on that ({test.bound}): beside {test.own_size} even "
        f"batch_size {smallest_split.batch_size} needs {format_size(needed)}. With as much it "
        "keeps them, and --shrink-tests goes on taking the fewest passes."
        for test in table.kept
        if sizes[test.number] < test.own_size
    )


def _pair(split: Candidate) -> str:
    return f"{split.batch_size} x {split.iter_size}"


def _candidate_table(goal: Goal, budget: Budget, *, keeps_bound: bool) -> _Table:
    """The candidates, with the smallest test batches.

    Args:
        goal: What is asked for.
        budget: The memory allowed.
        keeps_bound: Whether test nets whose scores depend on their batch keep it, unless all test
            batches should follow the train net's.

    Raises:
        InputError: There are none.
        ShapeError: Caffe refuses the net at every size.
    """
    model, options = goal.model, goal.options
    number = len(model.recipe.tests)
    records = (*options.test_records, *(None,) * number)[:number]
    if options.keep_tests:
        records = (None,) * number
    # A test that shares a data layer with the train net gets the train net's batch.
    schedule = options.schedule
    scored = runs_tests(model.recipe.solver) or (schedule.epochs or schedule.test_every) is not None
    tests = tuple(
        test
        for test in planned_tests(model, records, scored=scored)
        if test.shared or not options.keep_tests
    )
    keeps_bound = keeps_bound and not options.tests_follow
    groups = group_tests(
        tests,
        exact=options.tests_follow,
        keeps_bound=keeps_bound,
        given=options.test_sizes,
    )
    test_sizes = smallest(groups, number)
    lean = model.with_test_batches(test_sizes)
    candidates = make_candidates(
        goal.effective_batch, goal.sharing, options.split, budget.usable_bytes, lean.peaks
    )
    if all(candidate.predicted_peak_bytes is None for candidate in candidates):
        lean.at(candidates[-1].batch_size)  # raises Caffe's refusal
    kept = tuple(
        test
        for group in groups
        for test in group.tests
        if keeps_bound and test.bound and not group.numbers & options.test_sizes.keys()
    )
    return _Table(tuple(candidates), tests, groups, test_sizes, lean, kept)


def _draft_of(goal: Goal, budget: Budget, table: _Table, split: Candidate) -> Draft:
    """The draft of a split with the largest test batches that fit beside it.

    If the changes for the split cost memory too, the test batches make room for that as well.
    If nothing fits, they are the smallest.
    """
    groups = table.groups
    if goal.options.tests_follow:
        share = Fraction(split.batch_size, goal.model.batch_size)
        groups = tuple(
            group if group.numbers & goal.options.test_sizes.keys() else group.shrunk(share)
            for group in groups
        )

    def draft(test_sizes: tuple[int | None, ...]) -> Draft:
        own = tuple(
            test.number
            for test in table.tests
            if test_sizes[test.number] not in (None, test.own_size)
            and fits_before_changes(_with_size(test_sizes, test))
        )
        return make_draft(goal, replace(_choice(table.tests, split, test_sizes), roomy=own))

    def fits_before_changes(test_sizes: tuple[int | None, ...]) -> bool:
        sized = goal.model.with_test_batches(test_sizes)
        try:
            return sized.at(split.batch_size).allocated_bytes <= budget.usable_bytes
        except ShapeError:  # a test batch of more elements than a blob may have
            return False

    def fits(test_sizes: tuple[int | None, ...]) -> bool:
        try:
            return draft(test_sizes).prediction.allocated_bytes <= budget.usable_bytes
        except ShapeError:
            return False

    made = draft(largest_that_fit(groups, table.test_sizes, fits_before_changes))
    if made.prediction.allocated_bytes <= budget.usable_bytes or not table.groups:
        return made
    return draft(largest_that_fit(groups, table.test_sizes, fits))


def _with_size(test_sizes: tuple[int | None, ...], test: NetTest) -> tuple[int | None, ...]:
    """The test batches with the files' own for one test net."""
    return tuple(
        test.own_size if number == test.number else size for number, size in enumerate(test_sizes)
    )


def _choice(
    tests: tuple[NetTest, ...], split: Candidate, test_sizes: tuple[int | None, ...]
) -> Choice:
    """A split with a batch size for each test net of the model; shared ones get the split's."""
    return Choice(
        split,
        tests,
        tuple(split.batch_size if test.shared else test_sizes[test.number] or 0 for test in tests),
    )


def _does_not_fit(goal: Goal, budget: Budget, table: _Table) -> DoesNotFitError:
    """What the smallest plan takes, with everything that changes for it."""
    smallest_first = table.smallest()
    draft = make_draft(goal, _choice(table.tests, smallest_first[0], table.test_sizes))
    return does_not_fit(
        goal.model,
        draft.prediction,
        budget,
        smallest_first,
        keeps_tests=len(table.tests) < len(goal.model.recipe.tests),
    )


def _plan_of(goal: Goal, budget: Budget, found: _Best, remarks: Sequence[str] = ()) -> Plan:
    """The plan of the best split.

    Raises:
        InputError: An update takes more samples than there are records.
    """
    table, draft = found.table, found.draft
    model, options, chosen = goal.model, goal.options, found.split
    records = options.train_records
    if records is not None and chosen.effective_batch > records:
        raise InputError(
            f"an effective batch of {chosen.effective_batch} is more than the {records} "
            "records of the training data",
            hint=[
                "Give a smaller ",
                Option("effective_batch"),
                ", or ",
                Option("train_records"),
                " if there are more.",
            ],
        )
    settled = {(each.batch_size, each.iter_size): each for each in found.tried}
    neighbours: list[Candidate] = []
    if not options.split.tolerance and not options.split.pinned:
        neighbours = good_neighbours(
            goal.effective_batch, goal.sharing, chosen, budget.usable_bytes, table.lean.peaks
        )
    return Plan(
        requested_effective_batch=goal.effective_batch,
        recipe_batch=goal.scale(chosen.effective_batch).own_batch,
        chosen=chosen,
        gpus=model.gpus,
        budget=budget,
        mode=model.mode,
        engine=model.engine,
        build=model.build,
        divides_batch=model.divides_batch,
        rounding_bytes=draft.prediction.rounding_bytes,
        uncertain_bytes=draft.prediction.uncertain_bytes,
        upper_bound_layers=draft.prediction.upper_bound_layers,
        candidates=tuple(
            settled.get((each.batch_size, each.iter_size), each) for each in table.candidates
        ),
        findings=draft.findings,
        tests=draft.tests,
        changes=draft.changes,
        remarks=(*model.remarks, *remarks, *remarks_of(goal, draft, neighbours)),
        stages=draft.stages,
        train_records=records,
        lower_bound=bool(draft.prediction.unknown_layers),
        half=model.half,
        allow_unknown=model.allow_unknown,
        assumptions=assumptions(model.train_layers),
        refused=options.refused,
        precision=options.precision,
        shared=options.shared,
        chance_loss=chance_loss(model.train_net(chosen.batch_size)),
    )


def _loss_hint(model: MemoryModel) -> str:
    """What to do about a net without a loss: a layer without a rule may be the one."""
    read = {bottom for layer in model.train_layers for bottom in layer.bottoms}
    for layer in model.train_layers:
        if rule_of(layer).unknown and layer.bottoms and read.isdisjoint(layer.tops):
            return (
                f"If layer {layer.name!r} ({layer.type}) is a loss, write loss_weight: 1 in it: "
                "what its type does isn't known."
            )
    return (
        "Add a loss layer such as SoftmaxWithLoss, or a loss_weight; is this a deploy file? "
        "Training needs the train_val one."
    )


def check_has_loss(model: MemoryModel) -> None:
    """Raises a NetError if nothing in the train net is a loss: there is nothing to train."""
    if not model.has_loss:
        raise NetError(
            "the TRAIN net has no loss, so there is nothing to train",
            hint=_loss_hint(model),
        )
