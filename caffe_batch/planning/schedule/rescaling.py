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
from caffe_batch.planning.edits.solver_fields import epochs_text, rounding, set_field, whole_updates
from caffe_batch.planning.schedule.rate_curve import rate_curve_changes
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.drops import rate_drops
from caffe_batch.solver.numbers import as_float32
from caffe_batch.solver.testing import has_test_at_end
from caffe_batch.solver.updates import ADAPTIVE

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
        about = f"{samples / self.records:.4g} epochs" if self.records else f"{samples:,} samples"
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
    run = scale.ratio
    if options.epochs is not None:
        run = scale.updates(options.epochs) / solver.max_iter
    length = whole_updates("max_iter", solver.max_iter * run)
    if run != 1:
        changes += _run_length(solver, scale, length, options.epochs)
        changes += rate_curve_changes(solver, run, length, options.epochs)
    for field in INTERVALS:
        changes += _interval(solver, scale, options, field, length)
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


def _run_length(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, length: int, epochs: Fraction | None
) -> Iterator[Change]:
    if epochs is None:
        reason = scale.reason(solver.max_iter, solver.max_iter * scale.ratio)
    else:
        reason = f"{epochs_text(epochs)}{rounding(scale.updates(epochs))}"
    yield from set_field(solver, "max_iter", length, reason)


def _interval(
    solver: caffe_pb2.SolverParameter,
    scale: Rescaling,
    options: ScheduleOptions,
    field: str,
    length: int,
) -> Iterator[Change]:
    """An interval keeps its epochs, but a run that should be tested gets at least one test."""
    before, epochs = getattr(solver, field), options.lengths.get(field)
    if epochs is not None and (field == "snapshot" or solver.test_iter):
        exact = scale.updates(epochs)
        reason = f"every {epochs_text(epochs)}{rounding(exact)}"
    elif before > 0:
        exact = before * scale.ratio
        reason = scale.reason(before, exact)
    else:
        return
    after = whole_updates(field, exact)
    tested = field == "test_interval" and len(solver.test_iter) > 0
    if tested and after > length and (epochs is not None or before <= solver.max_iter):
        reason = f"one test after the last update: the run has fewer than {after} updates"
        after = length
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
    if before.test_iter and has_test_at_end(before) and not has_test_at_end(after):
        yield (
            f"The recipe's last update is tested, but the plan's isn't: {after.max_iter} is not a "
            f"multiple of test_interval {after.test_interval}."
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
