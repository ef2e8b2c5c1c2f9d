"""What the stages of a growing batch change in the recipe's solver.

Each stage is a solver of its own, with one rate and its own length; the count of updates continues
from one to the next, so max_iter and all intervals count the updates of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import log

from caffe_batch.planning.edits.changes import Change, iter_size_change
from caffe_batch.planning.edits.solver_fields import epochs_text, set_field, whole_updates
from caffe_batch.planning.schedule.growth import Stage
from caffe_batch.planning.schedule.rescaling import INTERVALS, last_snapshot
from caffe_batch.planning.schedule.spacing import Stretch, spaced_tests
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import StepDecay

#: If the samples differ from those of the epochs by more than this share, a remark says so.
WORTH_A_WORD = Fraction(1, 200)

#: Above this ratio (its logarithm), an interval between tests is far from the recipe's.
FAR_OFF = log(1.5)


def stage_changes(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stages: Sequence[Stage],
    every: Mapping[str, Fraction] | None = None,
) -> tuple[tuple[Change, ...], ...]:
    """What each stage changes in the recipe's solver.

    Args:
        solver: The recipe's solver, in current syntax.
        decay: What it means.
        stages: All stages.
        every: Epochs between two, by solver field, if the recipe's are not kept.
    """
    every = every or {}
    tests = _test_spacings(solver, decay, stages, every)
    intervals: tuple[int | None, ...] = spaced_tests(tests) if tests else (None,) * len(stages)
    return tuple(
        (
            *iter_size_change(solver, stage.iter_size),
            *_rate_changes(solver, decay, stage),
            *set_field(solver, "max_iter", stage.last_update, f"all updates up to {stage.end}"),
            *_interval_changes(solver, decay, stage, every, interval),
            *_end_snapshot(solver, decay, stage, every, more_follow=stage is not stages[-1]),
        )
        for stage, interval in zip(stages, intervals, strict=True)
    )


def _rate_changes(
    solver: caffe_pb2.SolverParameter, decay: StepDecay, stage: Stage
) -> Iterator[Change]:
    before = float(decay.base_lr)
    if stage.learning_rate != before:
        scaled = "lr_scaling: the recipe's first rate, for the effective batch"
        reason = stage.reason if stage.first_update else scaled
        yield Change("solver", ("base_lr",), before, stage.learning_rate, reason)
    reason = "a stage has one rate; the rate drops between stages"
    yield from set_field(solver, "lr_policy", "fixed", reason)
    for name in ("gamma", "stepsize"):
        if solver.HasField(name):
            before = float(decay.gamma) if name == "gamma" else solver.stepsize
            yield Change("solver", (name,), before, None, reason)
    for index in reversed(range(len(solver.stepvalue))):
        yield Change("solver", ("stepvalue", index), solver.stepvalue[index], None, reason)


def _interval(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stage: Stage,
    name: str,
    every: Mapping[str, Fraction],
) -> tuple[Fraction, str] | None:
    """An interval that keeps its epochs, unrounded, and why it changes; None if it isn't used.

    An epoch of the stage has another number of updates than an epoch of the recipe.
    """
    own = getattr(solver, name)
    if name in every and (name == "snapshot" or solver.test_iter):
        return every[name] * stage.updates_per_epoch, f"every {epochs_text(every[name])}"
    if own <= 0:
        return None
    return own * Fraction(stage.updates_per_epoch, decay.updates_per_epoch), (
        f"an epoch takes {stage.updates_per_epoch} updates instead of {decay.updates_per_epoch}"
    )


def _test_spacings(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stages: Sequence[Stage],
    every: Mapping[str, Fraction],
) -> list[Stretch]:
    """How often each stage should test; empty if the recipe tests at update 0 or never."""
    seldom = solver.test_interval > solver.max_iter and "test_interval" not in every
    if seldom or not solver.test_iter:
        return []
    stretches = []
    for stage in stages:
        found = _interval(solver, decay, stage, "test_interval", every)
        if found is None:
            return []
        stretches.append(Stretch(stage.first_update, stage.last_update, found[0]))
    return stretches


def _interval_changes(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stage: Stage,
    every: Mapping[str, Fraction],
    test_interval: int | None,
) -> Iterator[Change]:
    """Intervals keep their epochs; tests also coincide with the stage boundaries."""
    for name in INTERVALS:
        found = _interval(solver, decay, stage, name, every)
        if found is None:
            continue
        exact, reason = found
        updates = whole_updates(name, exact)
        if name == "test_interval" and test_interval is not None:
            if test_interval != updates:
                reason += f", {float(exact):.6g}; each stage boundary should have one test"
            updates = test_interval
        yield from set_field(solver, name, updates, reason)


def _end_snapshot(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stage: Stage,
    every: Mapping[str, Fraction],
    *,
    more_follow: bool,
) -> Iterator[Change]:
    """Every stage but the last ends with a snapshot; the last one does if the recipe does."""
    if more_follow:
        reason = "the next stage continues from it"
        yield from set_field(solver, "snapshot_after_train", True, reason)
    elif found := _interval(solver, decay, stage, "snapshot", every):
        updates = whole_updates("snapshot", found[0])
        yield from last_snapshot(solver, stage.last_update, updates)


def growth_remarks(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    stages: Sequence[Stage],
    every: Mapping[str, Fraction],
) -> Iterator[str]:
    """What to know about the stages beside their changes, a sentence or two each.

    Args:
        solver: The recipe's solver.
        decay: What it means.
        stages: All stages.
        every: As for :func:`stage_changes`.
    """
    samples = sum(
        (stage.last_update - stage.first_update) * stage.effective_batch for stage in stages
    )
    seen = Fraction(samples, decay.records)
    if abs(seen / decay.epochs - 1) >= WORTH_A_WORD:
        yield (
            f"An epoch of a stage is records / batch updates, rounded up: "
            f"{float(decay.epochs):.6g} of them see the records {float(seen):.6g} times, and those "
            "are the epochs that training shows."
        )
    tests = _test_spacings(solver, decay, stages, every)
    for number, (stretch, interval) in enumerate(
        zip(tests, spaced_tests(tests) if tests else (), strict=True), start=1
    ):
        if stretch.off(interval) > FAR_OFF:
            yield (
                f"Stage {number} tests every {interval} updates instead of "
                f"{float(stretch.spacing):.6g}: Caffe tests at multiples of test_interval, and "
                "each stage boundary should have one test."
            )
