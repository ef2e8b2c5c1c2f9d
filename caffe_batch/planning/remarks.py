"""What to know about a plan beside its changes, a sentence or two each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from caffe_batch.layers.base import count
from caffe_batch.planning.audit.summed_losses import sums_remark
from caffe_batch.planning.draft import Draft, recipe_decay
from caffe_batch.planning.edits.changes import applied
from caffe_batch.planning.goal import Goal
from caffe_batch.planning.schedule.rescaling import LrScaling, rate_advice, schedule_remarks
from caffe_batch.planning.schedule.stage_changes import growth_remarks
from caffe_batch.planning.split.candidates import Candidate, split_remarks
from caffe_batch.prototxt import skipped_text

#: From this change of the effective batch on, the learning rate is worth a remark.
WORTH_A_WORD = Fraction(1, 20)

#: A net's output of more values than this is no score.
MOST_SCORES = 32


def remarks_of(goal: Goal, draft: Draft, neighbours: Sequence[Candidate]) -> tuple[str, ...]:
    """What to know about a plan.

    Args:
        goal: What was asked for.
        draft: What is planned.
        neighbours: Better splits nearby.
    """
    skipped = skipped_text(goal.model.recipe.skipped)
    return (
        *([skipped] if skipped else ()),
        *_of_split(goal, draft, neighbours),
        *_of_schedule(goal, draft),
        *_of_tests(draft),
        *_of_outputs(goal, draft),
    )


def _of_outputs(goal: Goal, draft: Draft) -> Iterator[str]:
    """Tops that nothing reads, and that are too large for a score: Caffe makes them outputs."""
    size, choice = draft.choice.split.batch_size, draft.choice
    sizes: list[int | None] = [None] * len(goal.model.recipe.tests)
    for test, planned in zip(choice.tests, choice.test_sizes, strict=True):
        sizes[test.number] = None if test.shared else planned
    model = goal.model.with_test_batches(tuple(sizes))
    found: dict[tuple[str, str], dict[str, None]] = {}
    for net in (model.train_net(size), *model.test_nets(size)):
        read = {index for node in net.nodes for index in node.bottoms}
        tops = {index: node.layer.name for node in net.nodes for index in node.tops}
        for index, layer in tops.items():
            top = net.blobs[index]
            if index not in read and count(top.shape) > MOST_SCORES:
                where = f"{count(top.shape):,} values in {net.phase}"
                found.setdefault((top.name, layer), {})[where] = None
    for (name, layer), places in found.items():
        yield (
            f"Nothing reads {name!r} of layer {layer!r} ({', '.join(places)}), so Caffe makes it "
            "an output of the net and writes all of it to its log in each test or display. A "
            "Silence layer that reads it, or leaving the layer out, prevents that."
        )


def _of_tests(draft: Draft) -> Iterator[str]:
    """Test nets of which Caffe runs no batch."""
    for test in draft.choice.tests:
        if not test.has_batches:
            yield (
                f"test_iter of test net {test.number} is {test.own_iter} and stays so: Caffe runs "
                "no batch of it, and there is no score."
            )


def _of_split(goal: Goal, draft: Draft, neighbours: Sequence[Candidate]) -> Iterator[str]:
    return split_remarks(
        goal.effective_batch,
        draft.choice.split,
        neighbours,
        goal.sharing,
        goal.options.split.prefer_multiple_of,
    )


def _of_schedule(goal: Goal, draft: Draft) -> Iterator[str]:
    options, recipe, split = goal.options.schedule, goal.model.recipe, draft.choice.split
    grown = 1 / goal.scale(split.effective_batch).ratio
    if draft.stages:
        stages = [each.stage for each in draft.stages]
        decay = recipe_decay(goal, split)
        yield from growth_remarks(recipe.solver, decay, stages, options.lengths)
    else:
        yield from schedule_remarks(recipe.solver, applied(recipe, draft.changes).solver)
    yield from _of_gpus(goal, split)
    sums = sums_remark(goal.model, split.batch_size, grown)
    if sums:
        yield sums
    scaled = options.lr_scaling is not LrScaling.NONE
    if abs(grown - 1) > WORTH_A_WORD and (scaled or not sums):
        yield rate_advice(recipe.solver.type, grown, options.lr_scaling)


def _of_gpus(goal: Goal, split: Candidate) -> Iterator[str]:
    """How many GPUs the files are assumed to be for, if that wasn't given."""
    if goal.knows_files_batch:
        return
    for_one, for_all = goal.files_batch, goal.files_batch_on_all
    one = f"one GPU, {for_one} samples an update", for_one
    several = f"{goal.model.gpus} GPUs, {for_all} samples an update", for_all
    is_one = goal.files_gpus(split.effective_batch) == 1
    taken, other = (one, several) if is_one else (several, one)
    yield (
        f"The files are assumed to be for {taken[0]}; a recipe batch of {other[1]} means "
        f"{other[0]}."
    )
