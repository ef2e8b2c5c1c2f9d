"""Growing the batch where the recipe drops the learning rate.

Smith, Kindermans, Ying, Le: Don't Decay the Learning Rate, Increase the Batch Size (ICLR 2018).
The noise of SGD goes with rate / batch while the batch is well below the records, so a batch that
grows by 1/gamma anneals as a rate that drops by gamma does, with fewer updates. Each phase between
two drops is a solver of its own; Caffe hands the momentum from one to the next in a snapshot. The
history there is a sum of rate x gradient: where the rate changes between phases, the old rate
fades out of it as it does after a drop within one solver (sgd_solver.cpp, ComputeUpdateValue).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.planning.changes import Change, iter_size_change
from caffe_batch.planning.decay import MAX_DROPS, StepDecay
from caffe_batch.planning.schedule import INTERVALS
from caffe_batch.schema import caffe_pb2

#: The noise goes with rate / batch up to about this share of the records.
MAX_BATCH_SHARE = Fraction(1, 10)


class Schedule(str, Enum):
    """What becomes of the recipe's drops; the value is what ``--schedule`` takes."""

    #: The rate drops, as in the recipe.
    DECAY = "decay"
    #: The batch grows at each drop, as far as it may; after that the rate drops.
    GROW = "grow"
    #: The batch grows at the first drop; after that the rate drops.
    HYBRID = "hybrid"

    @property
    def growths(self) -> int:
        """At how many drops the batch may grow."""
        return {"decay": 0, "grow": MAX_DROPS, "hybrid": 1}[self.value]


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training with one batch and one learning rate.

    Attributes:
        first_epoch: Epochs done when it begins.
        epochs: How many it takes.
        updates_per_epoch: Updates in which its batch covers the records: rounded up.
        first_update: Updates done when it begins, over all phases.
        last_update: Updates done when it ends, over all phases: Caffe's max_iter.
        effective_batch: Samples per update.
        iter_size: Passes accumulated into one update.
        learning_rate: The rate of all its updates.
        reason: What becomes of the recipe's drop at its begin, in a sentence.
    """

    first_epoch: Fraction
    epochs: Fraction
    updates_per_epoch: int
    first_update: int
    last_update: int
    effective_batch: int
    iter_size: int
    learning_rate: float
    reason: str

    def json(self) -> dict[str, Any]:
        """As in plan.json."""
        return {
            "first_update": self.first_update,
            "last_update": self.last_update,
            "first_epoch": round(float(self.first_epoch), 6),
            "epochs": round(float(self.epochs), 6),
            "iter_size": self.iter_size,
            "effective_batch": self.effective_batch,
            "base_lr": self.learning_rate,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """A phase, and everything that it changes in the user's files.

    Attributes:
        phase: The phase.
        changes: All of them: those of :func:`phase_changes`, and those of the split.
    """

    phase: Phase
    changes: tuple[Change, ...]


def grow(
    decay: StepDecay,
    *,
    effective_batch: int,
    pass_samples: int,
    schedule: Schedule = Schedule.GROW,
    max_batch: int | None = None,
) -> tuple[Phase, ...]:
    """The phases of a recipe whose drops become growth of the batch.

    After i drops the schedule means rate / batch = base_lr x gamma^i / effective_batch. The batch
    is the multiple of a pass that is nearest to effective_batch / gamma^i, up to the largest
    allowed; the rate is what is then left. There are as many phases as the recipe has different
    rates; each takes its epochs x ceil(records / batch) updates, rounded once, and at least one.

    Args:
        decay: The recipe. Its base_lr is the first phase's rate.
        effective_batch: Samples per update of the first phase.
        pass_samples: Samples of one forward/backward pass on all GPUs; they stay.
        schedule: Which drops become growth.
        max_batch: The largest effective batch; a tenth of the records if None.

    Raises:
        InputError: The batch is no multiple of a pass or more than the records, or can't grow.
    """
    if effective_batch % pass_samples:
        raise InputError(
            f"an effective batch of {effective_batch} is no multiple of the {pass_samples} "
            "samples of a pass",
            hint="batch_size x GPUs must divide it.",
        )
    if effective_batch > decay.records:
        raise InputError(
            f"an effective batch of {effective_batch} is more than the {decay.records} records of "
            "the training data",
            hint="Give a smaller --effective-batch.",
        )
    largest = effective_batch
    if schedule.growths:
        largest = _largest_batch(decay.records, effective_batch, pass_samples, max_batch)
    phases: list[Phase] = []
    starts, ends = (Fraction(0), *decay.drops), (*decay.drops, decay.epochs)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        grown = effective_batch / decay.gamma ** min(number, schedule.growths)
        batch = min(round(grown / pass_samples) * pass_samples, largest)
        rate = decay.base_lr * decay.gamma**number * Fraction(batch, effective_batch)
        per_epoch = -(-decay.records // batch)
        done = phases[-1].last_update if phases else 0
        phases.append(
            Phase(
                first_epoch=start,
                epochs=end - start,
                updates_per_epoch=per_epoch,
                first_update=done,
                last_update=done + max(1, round((end - start) * per_epoch)),
                effective_batch=batch,
                iter_size=batch // pass_samples,
                learning_rate=float(rate),
                reason=_reason(decay, start, phases[-1] if phases else None, batch, grown, largest),
            )
        )
    return tuple(phases)


def phase_changes(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    phase: Phase,
    *,
    more_follow: bool,
    every: Mapping[str, Fraction] | None = None,
) -> tuple[Change, ...]:
    """What a phase changes in the recipe's solver.

    Args:
        solver: The recipe's solver, in current syntax.
        decay: What it means.
        phase: The phase.
        more_follow: Whether another phase goes on from its last snapshot.
        every: Epochs between two, by solver field, where the recipe's are not to be kept.
    """
    end = float(phase.first_epoch + phase.epochs)
    return (
        *iter_size_change(solver, phase.iter_size),
        *_rate_changes(solver, decay, phase),
        *_set(solver, "max_iter", phase.last_update, f"all updates up to epoch {end:.6g}"),
        *_interval_changes(solver, decay, phase, every or {}),
        *(
            _set(solver, "snapshot_after_train", True, "the next phase goes on from it")
            if more_follow
            else ()
        ),
    )


def _rate_changes(
    solver: caffe_pb2.SolverParameter, decay: StepDecay, phase: Phase
) -> Iterator[Change]:
    before = float(decay.base_lr)
    if phase.learning_rate != before:
        yield Change("solver", ("base_lr",), before, phase.learning_rate, phase.reason)
    reason = "a phase has one rate; its drops are the phases' bounds"
    yield from _set(solver, "lr_policy", "fixed", reason)
    for name in ("gamma", "stepsize"):
        if solver.HasField(name):
            before = float(decay.gamma) if name == "gamma" else solver.stepsize
            yield Change("solver", (name,), before, None, reason)
    for index in reversed(range(len(solver.stepvalue))):
        yield Change("solver", ("stepvalue", index), solver.stepvalue[index], None, reason)


def _interval_changes(
    solver: caffe_pb2.SolverParameter,
    decay: StepDecay,
    phase: Phase,
    every: Mapping[str, Fraction],
) -> Iterator[Change]:
    """Intervals keep their epochs: an epoch of the phase has another number of updates."""
    factor = Fraction(phase.updates_per_epoch, decay.updates_per_epoch)
    reason = (
        f"an epoch takes {phase.updates_per_epoch} updates instead of {decay.updates_per_epoch}"
    )
    for name in INTERVALS:
        before = getattr(solver, name)
        if name in every and (name == "snapshot" or solver.test_iter):
            updates = max(1, round(every[name] * phase.updates_per_epoch))
            yield from _set(solver, name, updates, f"every {float(every[name]):.4g} epochs")
        elif before > 0:
            yield from _set(solver, name, max(1, round(before * factor)), reason)


def _set(solver: caffe_pb2.SolverParameter, name: str, value: Any, reason: str) -> Iterator[Change]:
    """The change of a field, or none where it has that value."""
    before = getattr(solver, name)
    if before != value:
        given = any(field.name == name for field, _ in solver.ListFields())
        yield Change("solver", (name,), before if given else None, value, reason)


def _largest_batch(
    records: int, effective_batch: int, pass_samples: int, max_batch: int | None
) -> int:
    """The largest multiple of a pass that the batch may grow to."""
    if max_batch is None:
        limit = int(records * MAX_BATCH_SHARE)
        told = f"a tenth of the {records} records is {limit}"
        hint = "Give a smaller --effective-batch, or --max-batch N to go beyond a tenth."
    else:
        limit, told = max_batch, f"--max-batch is {max_batch}"
        hint = f"Give a --max-batch of at least {effective_batch + pass_samples}."
    if limit > records:
        raise InputError(
            f"{told}, more than the {records} records of the training data",
            hint="An update can't use more samples than there are.",
        )
    largest = limit // pass_samples * pass_samples
    if largest <= effective_batch:
        raise InputError(
            f"an effective batch of {effective_batch} can't grow: {told}, and it grows by "
            f"multiples of {pass_samples} samples, those of a pass",
            hint=hint,
        )
    return largest


def _reason(
    decay: StepDecay,
    start: Fraction,
    before: Phase | None,
    batch: int,
    grown: Fraction,
    largest: int,
) -> str:
    """What becomes of a drop, in words; ``grown`` is the batch that takes all of it."""
    if before is None:
        return "the recipe's first rate"
    growth = Fraction(batch, before.effective_batch)
    drop = 1 / (decay.gamma * growth)  # of the rate, against the phase before
    at = (
        f"epoch {float(start):.6g}, where the recipe divides the rate by {_number(1 / decay.gamma)}"
    )
    if growth == 1:
        return f"{at}: so does the schedule, at the same batch"
    grows = f"{at}: the batch grows by {_number(growth)}"
    if drop == 1:
        return f"{grows} instead"
    rest = f"the rate is divided by {_number(drop)}"
    why = f"{largest} is the largest batch" if grown > largest else "whole passes only"
    return f"{grows}, and {rest} ({why})"


def _number(value: Fraction) -> str:
    return f"{float(value):.6g}"
