"""Growing the batch where the recipe drops the learning rate.

Smith, Kindermans, Ying, Le: Don't Decay the Learning Rate, Increase the Batch Size (ICLR 2018).
The noise of SGD is proportional to rate / batch while the batch is well below the records, so a
batch that grows by 1/gamma anneals as a rate that drops by gamma does, with fewer updates. Each
stage between two drops is a solver of its own; a snapshot takes the momentum from one to the next.
The history in it is a sum of rate x gradient: if the rate changes between stages, the old rate
fades out of it as it does after a drop within one solver (sgd_solver.cpp, ComputeUpdateValue).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

from caffe_batch.errors import InputError, Option, separated
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.edits.solver_fields import whole_updates
from caffe_batch.planning.split.candidates import Sharing, divisors
from caffe_batch.solver.decay import MAX_DROPS, StepDecay

#: The noise is proportional to rate / batch up to about this share of the records.
MAX_BATCH_SHARE = Fraction(1, 10)


class Schedule(str, Enum):
    """What happens at the recipe's drops; the value is the one that ``--schedule`` takes."""

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
class Stage:
    """A part of the training with one batch and one learning rate.

    Attributes:
        first_epoch: Epochs done when it begins.
        epochs: How many it takes.
        updates_per_epoch: Updates in which its batch covers the records, rounded up.
        first_update: Updates done when it begins, over all stages.
        last_update: Updates done when it ends, over all stages: Caffe's max_iter.
        effective_batch: Samples per update.
        iter_size: Passes accumulated into one update.
        learning_rate: The rate of all its updates.
        reason: What happens at its start instead of the recipe's drop, in a sentence.
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

    @property
    def end(self) -> str:
        """Epochs done when it ends, for display."""
        return f"epoch {_number(self.first_epoch + self.epochs)}"

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
class PlannedStage:
    """A stage, and everything that it changes in the user's files.

    Attributes:
        stage: The stage.
        changes: All of them: for the solver, the split and the compensations.
    """

    stage: Stage
    changes: tuple[Change, ...]


def grow(
    decay: StepDecay,
    *,
    effective_batch: int,
    pass_samples: int,
    schedule: Schedule = Schedule.GROW,
    max_batch: int | None = None,
    sharing: Sharing | None = None,
) -> tuple[Stage, ...]:
    """The stages of a recipe whose drops become growth of the batch.

    After i drops the schedule means rate / batch = base_lr x gamma^i / effective_batch. The batch
    is the multiple of a pass nearest to effective_batch / gamma^i, up to the largest allowed; the
    rate follows from it. There are as many stages as the recipe has different rates; each takes
    its epochs x ceil(records / batch) updates, rounded once, and at least one.

    Args:
        decay: The recipe. Its base_lr is the first stage's rate.
        effective_batch: Samples per update of the first stage.
        pass_samples: Samples of one forward/backward pass on all GPUs; these don't change.
        schedule: Which drops become growth.
        max_batch: The largest effective batch; a tenth of the records if None.
        sharing: The GPUs of a pass, for advice about batch_size; one if None.

    Raises:
        InputError: The batch isn't a multiple of a pass, is more than the records, or can't grow.
    """
    if effective_batch % pass_samples:
        raise InputError(
            f"an effective batch of {effective_batch} is not a multiple of the {pass_samples} "
            "samples of a pass",
            hint="batch_size x GPUs must divide it.",
        )
    if effective_batch > decay.records:
        raise InputError(
            f"an effective batch of {effective_batch} is more than the {decay.records} records of "
            "the training data",
            hint=["Give a smaller ", Option("effective_batch"), "."],
        )
    most = effective_batch / decay.gamma ** min(len(decay.drops), schedule.growths)
    limit, reason = _limit(decay.records, effective_batch, schedule, max_batch)
    if schedule.growths and _whole_passes(most, pass_samples, limit) <= effective_batch:
        raise _cannot_grow(
            decay.records, effective_batch, pass_samples, most, limit, reason, sharing or Sharing()
        )
    largest = limit // pass_samples * pass_samples
    stages: list[Stage] = []
    starts, ends = (Fraction(0), *decay.drops), (*decay.drops, decay.epochs)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        grown = effective_batch / decay.gamma ** min(number, schedule.growths)
        batch = _whole_passes(grown, pass_samples, limit)
        rate = decay.base_lr * decay.gamma**number * Fraction(batch, effective_batch)
        per_epoch = -(-decay.records // batch)
        done = stages[-1].last_update if stages else 0
        updates = whole_updates("max_iter", (end - start) * per_epoch)
        stages.append(
            Stage(
                first_epoch=start,
                epochs=end - start,
                updates_per_epoch=per_epoch,
                first_update=done,
                last_update=whole_updates("max_iter", Fraction(done + updates)),
                effective_batch=batch,
                iter_size=batch // pass_samples,
                learning_rate=float(rate),
                reason=_reason(decay, start, stages[-1] if stages else None, batch, grown, largest),
            )
        )
    return tuple(stages)


def _limit(
    records: int, effective_batch: int, schedule: Schedule, max_batch: int | None
) -> tuple[int, str]:
    """The batch that growth must not exceed, and where that limit comes from."""
    if not schedule.growths:
        return effective_batch, "the batch doesn't grow"
    if max_batch is None:
        limit = int(records * MAX_BATCH_SHARE)
        return limit, f"a tenth of the {records} records is {limit}"
    if max_batch > records:
        raise InputError(
            [
                Option("max_batch"),
                f" is {max_batch}, more than the {records} records of the training data",
            ],
            hint="An update can't use more samples than there are.",
        )
    return max_batch, f"the largest batch asked for is {max_batch}"


def _whole_passes(wanted: Fraction, pass_samples: int, limit: int) -> int:
    """The multiple of a pass nearest to a batch, within the limit."""
    return min(round(wanted / pass_samples), limit // pass_samples) * pass_samples


def _cannot_grow(
    records: int,
    effective_batch: int,
    pass_samples: int,
    most: Fraction,
    limit: int,
    reason: str,
    sharing: Sharing,
) -> InputError:
    """The error for a batch that can't grow; ``most`` is the one that all the growth would give."""
    limited = limit < effective_batch + pass_samples
    unit = sharing.unit * sharing.each  # a pass is a multiple of it
    smaller = [
        (size, grown)
        for size in (unit * each for each in divisors(effective_batch // unit))
        if (grown := _whole_passes(most, size, limit)) > effective_batch
    ]
    hints: list[list[str | Option]] = []
    if smaller:
        best = max(grown for _, grown in smaller)
        size, grown = next(pair for pair in reversed(smaller) if pair[1] >= 0.95 * best)
        hints.append(
            [
                Option("batch_size", size // sharing.each),
                f": in passes of {size} samples it grows to {grown}",
            ]
        )
    if limited:
        if effective_batch + pass_samples <= records:
            hints.append(
                ["a ", Option("max_batch"), f" of at least {effective_batch + pass_samples}"]
            )
        hints.append(["a smaller ", Option("effective_batch")])
    if not hints:
        hints.append(
            [
                Option("schedule", "decay"),
                ": gamma is too close to 1 for a batch of whole samples to follow",
            ]
        )
    if not limited:
        reason = f"the recipe's drops ask for at most {_number(most)} samples"
    return InputError(
        f"an effective batch of {effective_batch} can't grow: {reason}, and it grows by "
        f"multiples of {pass_samples} samples, those of a pass",
        hint=["Give ", *(part for hint in separated(hints, ["; or "]) for part in hint), "."],
    )


def _reason(
    decay: StepDecay,
    start: Fraction,
    before: Stage | None,
    batch: int,
    grown: Fraction,
    largest: int,
) -> str:
    """What happens at a drop, in words; ``grown`` is the batch that would take all of it."""
    if before is None:
        return "the recipe's first rate"
    growth = Fraction(batch, before.effective_batch)
    drop = 1 / (decay.gamma * growth)  # of the rate, relative to the previous stage
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
