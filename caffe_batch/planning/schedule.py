"""A solver's schedule for another effective batch: epochs stay, updates change.

All of a solver's intervals count updates (caffe-facts A5). With another number of samples an
update, each is scaled from the number in the file, exactly, and rounded once. Rates that follow a
formula of the update counter (sgd_solver.cpp, GetLearningRate) get the constants that make the
same curve over the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from math import sqrt

from caffe_batch.errors import InputError
from caffe_batch.planning.changes import Change
from caffe_batch.planning.numbers import as_float32
from caffe_batch.schema import caffe_pb2

#: With more drops than this a `step` policy is a smooth decay, and stays one.
MAX_DROPS = 100

#: Solver fields that count updates between two events.
INTERVALS = ("display", "test_interval", "snapshot")

#: Rules that scale each gradient by its own size.
ADAPTIVE = ("Adam", "RMSProp", "AdaGrad", "AdaDelta")


class LrScaling(str, Enum):
    """How the learning rate follows the effective batch; the value is what ``--lr-scaling`` has."""

    NONE = "none"
    LINEAR = "linear"
    SQRT = "sqrt"

    def factor(self, ratio: Fraction) -> float:
        """What a rate is multiplied by when the effective batch is multiplied by ``ratio``."""
        if self is LrScaling.NONE:
            return 1.0
        return float(ratio) if self is LrScaling.LINEAR else sqrt(ratio)


@dataclass(frozen=True, slots=True)
class ScheduleWishes:
    """What the user wants of the schedule.

    Attributes:
        epochs: Passes over the training data; None for as many as the recipe makes.
        test_every, snapshot_every: Epochs between two; None for as many as in the recipe.
        lr_scaling: How the learning rate follows the effective batch.
        keep: Leave every interval as it is in the file.
        recipe_batch: Samples per update that the file's schedule was written for; None for what
            the files have.
    """

    epochs: Fraction | None = None
    test_every: Fraction | None = None
    snapshot_every: Fraction | None = None
    lr_scaling: LrScaling = LrScaling.NONE
    keep: bool = False
    recipe_batch: int | None = None

    @property
    def lengths(self) -> dict[str, Fraction]:
        """Epochs between two, by solver field, where they are given."""
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
        """The plan's updates for each of the recipe's, over the same samples."""
        return Fraction(self.own_batch, self.batch)

    def updates(self, epochs: Fraction) -> Fraction:
        """The plan's updates in so many epochs, unrounded.

        Raises:
            InputError: The number of records isn't known.
        """
        if self.records is None:
            raise InputError(
                "how many records make an epoch? The training data can't be counted",
                hint="Give --train-records N.",
            )
        return epochs * self.records / self.batch

    def reason(self, before: int, exact: Fraction) -> str:
        """Why an interval changes, with what rounding does to it."""
        samples = before * self.own_batch
        about = f"{samples / self.records:.4g} epochs" if self.records else f"{samples:,} samples"
        rounded = "" if exact.denominator == 1 else f" ({float(exact):.2f}, rounded once)"
        return f"{about}, as in the recipe{rounded}"


def schedule_changes(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, wishes: ScheduleWishes
) -> list[Change]:
    """What makes the recipe's schedule the plan's.

    Args:
        solver: The recipe's solver.
        scale: The two effective batches, and the data.
        wishes: What the user wants of it.

    Raises:
        InputError: Epochs are asked for and the records aren't known, or the lengths are too short
            or too long to be counted.
    """
    changes: list[Change] = []
    if wishes.keep:
        return changes
    run = scale.ratio
    if wishes.epochs is not None:
        run = scale.updates(wishes.epochs) / solver.max_iter
    if run != 1:
        changes += _run_length(solver, scale, run, wishes.epochs)
        changes += _rate_curve(solver, scale, run)
    for field in INTERVALS:
        before, epochs = getattr(solver, field), wishes.lengths.get(field)
        if epochs is not None and (field == "snapshot" or solver.test_iter):
            exact = scale.updates(epochs)
            reason = f"every {_epochs(epochs)}{_rounded(exact)}"
            changes += _set(solver, field, _whole(field, exact), reason)
        elif before > 0 and scale.ratio != 1:
            exact = before * scale.ratio
            changes += _set(solver, field, _whole(field, exact), scale.reason(before, exact))
    if wishes.lr_scaling is not LrScaling.NONE and scale.ratio != 1:
        factor = wishes.lr_scaling.factor(1 / scale.ratio)
        before_rate = as_float32(solver.base_lr)
        changes.append(
            Change(
                "solver", ("base_lr",), before_rate, as_float32(before_rate * factor),
                f"{wishes.lr_scaling.value} scaling: x {factor:.4g} for "
                f"{scale.batch} instead of {scale.own_batch} samples an update",
            )
        )  # fmt: skip
    return changes


def _run_length(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, run: Fraction, epochs: Fraction | None
) -> Iterator[Change]:
    exact = solver.max_iter * run
    reason = scale.reason(solver.max_iter, exact)
    if epochs is not None:
        reason = f"{_epochs(epochs)}{_rounded(exact)}"
    yield from _set(solver, "max_iter", _whole("max_iter", exact), reason)


def _rate_curve(
    solver: caffe_pb2.SolverParameter, scale: Rescaling, run: Fraction
) -> Iterator[Change]:
    """What keeps the rate's curve over the length of the run (sgd_solver.cpp)."""
    policy = solver.lr_policy
    why = "the drop stays where it is in the run"
    if policy == "step" and solver.stepsize > 0:
        yield from _step(solver, run)
    elif policy == "multistep":
        last = 0
        for i, before in enumerate(solver.stepvalue):
            exact = before * run
            last = max(_whole("stepvalue", exact), last + 1)
            if last != before:
                yield Change("solver", ("stepvalue", i), before, last, why + _rounded(exact))
    elif policy in ("exp", "inv", "sigmoid"):
        gamma = as_float32(solver.gamma)
        after = as_float32(gamma ** float(1 / run) if policy == "exp" else gamma / float(run))
        if after != gamma:
            yield Change(
                "solver", ("gamma",), gamma, after, f"the {policy} curve over the same samples"
            )
        if policy == "sigmoid":
            exact = solver.stepsize * run
            yield from _set(solver, "stepsize", _whole("stepsize", exact), why + _rounded(exact))


def _step(solver: caffe_pb2.SolverParameter, run: Fraction) -> Iterator[Change]:
    """A stepsize that doesn't come out whole would drift, so its drops are listed one by one."""
    exact = solver.stepsize * run
    drops = (solver.max_iter - 1) // solver.stepsize
    if exact.denominator == 1 or drops < 2 or drops > MAX_DROPS:
        why = "the drops stay where they are in the run"
        if drops > MAX_DROPS and exact.denominator != 1:
            drift = abs(_whole("stepsize", exact) - exact) * drops
            why += f"; the last of {drops} is {float(drift):.1f} updates off by rounding"
        yield from _set(solver, "stepsize", _whole("stepsize", exact), why + _rounded(exact))
        return
    why = f"{float(exact):.2f} updates between drops: each drop is rounded by itself"
    yield Change("solver", ("lr_policy",), "step", "multistep", why)
    yield Change("solver", ("stepsize",), solver.stepsize, None, why)
    unused = list(solver.stepvalue)  # a step policy doesn't read them
    last = 0
    for i in range(drops):
        last = max(_whole("stepvalue", exact * (i + 1)), last + 1)
        before = unused[i] if i < len(unused) else None
        yield Change("solver", ("stepvalue", i), before, last, why)
    for i in reversed(range(drops, len(unused))):
        yield Change("solver", ("stepvalue", i), unused[i], None, why)


def _set(
    solver: caffe_pb2.SolverParameter, field: str, after: int, reason: str
) -> Iterator[Change]:
    before = getattr(solver, field) if solver.HasField(field) else None  # type: ignore[arg-type]
    if before != after:
        yield Change("solver", (field,), before, after, reason)


def _whole(field: str, exact: Fraction) -> int:
    """The nearest number of updates, at least one."""
    if exact > 2**31 - 1:
        raise InputError(
            f"{field} would be {float(exact):.3g} updates, more than Caffe can count",
            hint="Give fewer --epochs, or a larger --effective-batch.",
        )
    return max(1, round(exact))


def _epochs(epochs: Fraction) -> str:
    return "epoch" if epochs == 1 else f"{float(epochs):.4g} epochs"


def _rounded(exact: Fraction) -> str:
    return "" if exact.denominator == 1 else f" ({float(exact):.2f} updates, rounded once)"


def rate_advice(solver_type: str, ratio: Fraction, scaling: LrScaling) -> str:
    """What people do to the learning rate when the effective batch changes, for this update rule.

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
        rule, option = f"with {solver_type} people scale by the square root", "sqrt"
    else:
        rule, option = f"with {solver_type} people scale it in proportion, with a warm-up", "linear"
    return f"{grown} and base_lr is as it was; {rule}: --lr-scaling {option}."
