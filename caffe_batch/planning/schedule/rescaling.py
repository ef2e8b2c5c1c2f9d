"""A solver's schedule for another effective batch: epochs stay, updates change.

All of a solver's intervals count updates (solver.cpp, Step). With another number of samples per
update, each is scaled exactly from the number in the file, and rounded once. Rates that are a
formula of the update counter (sgd_solver.cpp, GetLearningRate) get the constants that make the
same curve over the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from math import sqrt

from caffe_batch.errors import InputError, Option
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.edits.solver_fields import (
    MAX_UPDATES,
    epochs_text,
    rounding,
    set_field,
    whole_or_never,
    whole_updates,
)
from caffe_batch.planning.schedule.rate_curve import rate_curve_changes
from caffe_batch.planning.schedule.spacing import Stretch, spaced_tests
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.drops import rate_drops
from caffe_batch.solver.numbers import as_float32
from caffe_batch.solver.testing import has_test_at, has_test_at_end
from caffe_batch.solver.updates import ADAPTIVE

#: By what factor a test interval moves for a test after the last update, before the run does.
NEAR_INTERVAL = Fraction(11, 10)

#: By what share of its length a run gets longer or shorter for that test.
NEAR_LENGTH = Fraction(1, 100)

#: Solver fields that count updates between two events.
INTERVALS = ("display", "test_interval", "snapshot")


class LrScaling(str, Enum):
    """How the learning rate follows the effective batch; the value is that of ``--lr-scaling``."""

    NONE = "none"
    LINEAR = "linear"
    SQRT = "sqrt"

    def factor(self, ratio: Fraction) -> float:
        """What a rate is multiplied by when the effective batch is multiplied by ``ratio``."""
        if self is LrScaling.NONE:
            return 1.0
        return float(ratio) if self is LrScaling.LINEAR else sqrt(ratio)


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """What the user asks of the schedule.

    Attributes:
        epochs: Passes over the training data; None for as many as in the recipe.
        test_every, snapshot_every: Epochs between two; None for as many as in the recipe.
        lr_scaling: How the learning rate follows the effective batch.
        keep: Leave every interval as it is in the file.
        recipe_batch: Samples per update that the file's schedule was written for; None for the
            files' own.
    """

    epochs: Fraction | None = None
    test_every: Fraction | None = None
    snapshot_every: Fraction | None = None
    lr_scaling: LrScaling = LrScaling.NONE
    keep: bool = False
    recipe_batch: int | None = None

    @property
    def lengths(self) -> dict[str, Fraction]:
        """Epochs between two, by solver field; only those that are given."""
        given = {"test_interval": self.test_every, "snapshot": self.snapshot_every}
        return {field: epochs for field, epochs in given.items() if epochs is not None}


@dataclass(frozen=True, slots=True)
class Rescaling:
    """From the recipe's updates to the plan's.

    Attributes:
        own_batch: Samples per update that the schedule was written for.
        batch: Samples per update of the plan.
        records: Records of the training data, or None if unknown.
    """

    own_batch: int
    batch: int
    records: int | None

    @property
    def ratio(self) -> Fraction:
        """How many of the plan's updates see as many samples as one of the recipe's."""
        return Fraction(self.own_batch, self.batch)

    def updates(self, epochs: Fraction) -> Fraction:
        """The plan's updates in that many epochs, unrounded.

        Raises:
            InputError: The number of records isn't known.
        """
        if self.records is None:
            raise InputError(
                "the training data can't be counted, so the length of an epoch is not known",
                hint=["Give ", Option("train_records"), "."],
            )
        return epochs * self.records / self.batch

    def reason(self, before: int, exact: Fraction) -> str:
        """Why an interval changes, and what rounding does to it."""
        samples = before * self.own_batch
        number = f"{samples / self.records:.4g}" if self.records else ""
        about = f"{number} epoch{'s' * (number != '1')}" if number else f"{samples:,} samples"
        rounded = "" if exact.denominator == 1 else f" ({float(exact):.2f}, rounded once)"
        return f"{about}, as in the recipe{rounded}"


def schedule_changes(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, options: ScheduleOptions
) -> list[Change]:
    """The changes that turn the recipe's schedule into the plan's.

    Args:
        solver: The recipe's solver.
        scale: The two effective batches, and the data.
        options: What the user asks of it.

    Raises:
        InputError: Epochs are asked for but the records aren't known, or the lengths are too short
            or too long to be counted.
    """
    changes: list[Change] = []
    if options.keep:
        return changes
    run, length = _run(solver, scale, options)
    spacing = None
    if length is not None:
        length, spacing = _tested_at_end(solver, scale, options, run, length)
        if run != 1:
            changes += _run_length(solver, scale, length, options.epochs)
    if run != 1:
        changes += rate_curve_changes(solver, run, length, options.epochs)
    for field in INTERVALS:
        given = spacing if field == "test_interval" else None
        changes += _interval(solver, scale, options, field, length, given)
    if length is not None:
        snapshot = next((c.after for c in changes if c.path == ("snapshot",)), solver.snapshot)
        changes += last_snapshot(solver, length, snapshot)
    if options.lr_scaling is not LrScaling.NONE and scale.ratio != 1:
        factor = options.lr_scaling.factor(1 / scale.ratio)
        before_rate = as_float32(solver.base_lr)
        changes.append(
            Change(
                "solver", ("base_lr",), before_rate, as_float32(before_rate * factor),
                f"{options.lr_scaling.value} scaling: x {factor:.4g} for "
                f"{scale.batch} instead of {scale.own_batch} samples per update",
            )
        )  # fmt: skip
    return changes


def _run(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, options: ScheduleOptions
) -> tuple[Fraction, int | None]:
    """The plan's updates for each of the recipe's, and how many there are in all.

    The latter is None if nothing says it: the solver is meant for a program that steps it.
    """
    if options.epochs is None:
        exact = solver.max_iter * scale.ratio
        return scale.ratio, whole_updates("max_iter", exact) if solver.max_iter > 0 else None
    updates = scale.updates(options.epochs)
    run = updates / solver.max_iter if solver.max_iter > 0 else scale.ratio
    return run, whole_updates("max_iter", updates)


def _tested_at_end(
    solver: caffe_pb2.SolverParameter,
    scale: Rescaling,
    options: ScheduleOptions,
    run: Fraction,
    length: int,
) -> tuple[int, int | None]:
    """The length of the run and its test interval, with a test after the last update.

    The interval moves to the nearest divisor of the length. If that is far off, the length moves
    instead, by a hundredth at most, unless it was asked for in epochs.

    Returns:
        The length as it was given and None if the recipe's own end isn't tested, or if rounding
        keeps the test there.
    """
    epochs = options.lengths.get("test_interval")
    if not solver.test_iter or (epochs is None and solver.test_interval <= 0):
        return length, None
    if epochs is None and run == 1:
        return length, None
    exact = solver.test_interval * scale.ratio if epochs is None else scale.updates(epochs)
    whole = solver.max_iter * run if options.epochs is None else scale.updates(options.epochs)
    is_tested = solver.max_iter > 0 and has_test_at_end(solver)
    if not is_tested and (whole / exact).denominator != 1:
        return length, None
    if exact >= length:
        return length, length
    interval = max(1, round(exact))
    if has_test_at(interval, length):
        return length, None
    (divisor,) = spaced_tests([Stretch(0, length, exact)])
    near = max(divisor / exact, exact / divisor) <= NEAR_INTERVAL
    if options.epochs is None and not near:
        tests = max(1, round(length / exact))
        for each in (interval, max(1, round(Fraction(length, tests)))):
            moved = each * max(1, round(Fraction(length, each)))
            if abs(moved - length) <= length * NEAR_LENGTH and moved <= MAX_UPDATES:
                return moved, each
    return length, divisor


def _run_length(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, length: int, epochs: Fraction | None
) -> Iterator[Change]:
    if epochs is None:
        exact = solver.max_iter * scale.ratio
        reason = scale.reason(solver.max_iter, exact)
        if length != whole_updates("max_iter", exact):
            reason += f"; {length} so that the last update is tested"
    else:
        reason = f"{epochs_text(epochs)}{rounding(scale.updates(epochs))}"
    yield from set_field(solver, "max_iter", length, reason)


def _interval(
    solver: caffe_pb2.SolverParameter,
    scale: Rescaling,
    options: ScheduleOptions,
    field: str,
    length: int | None,
    given: int | None,
) -> Iterator[Change]:
    """An interval keeps its epochs, but a run that should be tested gets at least one test.

    Args:
        solver: The recipe's solver.
        scale: The two effective batches, and the data.
        options: What the user wants of the schedule.
        field: Which interval.
        length: Updates of the run; None if unknown.
        given: What it has to be for a test after the last update; None for any.
    """
    before, epochs = getattr(solver, field), options.lengths.get(field)
    if epochs is not None and (field == "snapshot" or solver.test_iter):
        exact = scale.updates(epochs)
        reason = f"every {epochs_text(epochs)}{rounding(exact)}"
        after = whole_updates(field, exact)
    elif before > 0:
        exact = before * scale.ratio
        reason = scale.reason(before, exact)
        after = whole_or_never(exact)
        if after < exact - 1:
            reason = f"never within the run, as in the recipe; {after} is as far as Caffe counts"
    else:
        return
    tested = field == "test_interval" and len(solver.test_iter) > 0
    asked = epochs is not None or before <= solver.max_iter
    if tested and length is not None and after > length and asked:
        reason = f"one test after the last update: the run has fewer than {after} updates"
        after = length
    elif given is not None and given != after:
        reason += f"; {given} so that the last update is tested"
        after = given
    yield from set_field(solver, field, after, reason)


def last_snapshot(
    solver: caffe_pb2.SolverParameter, length: int, snapshot: int
) -> Iterator[Change]:
    """The change that keeps a run from ending without the snapshot that the recipe's run has.

    Args:
        solver: The recipe's solver.
        length: Updates of the run.
        snapshot: Updates between its snapshots, 0 for none.
    """
    own = solver.snapshot
    if solver.snapshot_after_train or not 0 < own <= solver.max_iter:
        return
    lost_last = solver.max_iter % own == 0 and length % snapshot != 0
    if lost_last or snapshot > length:
        reason = f"{length} updates aren't a multiple of {snapshot}: no snapshot after the last one"
        yield from set_field(solver, "snapshot_after_train", True, reason)


def schedule_remarks(
    before: caffe_pb2.SolverParameter, after: caffe_pb2.SolverParameter
) -> Iterator[str]:
    """What a recipe's run has and the plan's doesn't, a sentence or two each.

    Args:
        before: The recipe's solver.
        after: The plan's, of a plan without stages.
    """
    drops = len(rate_drops(before))
    if lost := max(0, drops - len(rate_drops(after))):
        yield (
            f"{lost} of the recipe's {drops} drops of the rate don't happen: the run has "
            f"{after.max_iter} updates, and Caffe drops the rate at most once per update."
        )


def rate_advice(solver_type: str, ratio: Fraction, scaling: LrScaling) -> str:
    """What is usually done to the learning rate when the effective batch changes, by update rule.

    Goyal et al. 2017 (arXiv:1706.02677) for SGD; Malladi et al. 2022 (arXiv:2205.10287) for rules
    that scale each gradient by its size.

    Args:
        solver_type: Caffe's name of the update rule.
        ratio: The new effective batch over the recipe's.
        scaling: What was asked for.
    """
    grown = f"The effective batch is {float(ratio):.4g} times the recipe's"
    if scaling is not LrScaling.NONE:
        return f"{grown}; base_lr is scaled ({scaling.value})."
    if solver_type in ADAPTIVE:
        rule = f"for {solver_type} it is usually scaled by the square root"
        option = "sqrt"
    else:
        rule, option = (
            f"for {solver_type} it is usually scaled in proportion, with warm-up",
            "linear",
        )
    return f"{grown} and base_lr is unchanged; {rule} (lr_scaling {option})."
