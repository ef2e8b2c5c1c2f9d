"""A recipe whose learning rate drops in steps, measured in epochs.

Source: sgd_solver.cpp (GetLearningRate): when the policies step and multistep drop the rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from caffe_batch.errors import InputError, Option
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.drops import rate_drops
from caffe_batch.solver.numbers import as_written

#: More drops than this are a smooth decay in disguise, and no stage is planned for each.
MAX_DROPS = 100

_NO_DROPS = {
    "fixed": "the rate never drops, so nothing can be turned into growth of the batch",
    "exp": "the rate falls a little with every update, and the batch can only grow in steps",
    "inv": "the rate falls a little with every update, and the batch can only grow in steps",
    "poly": "the rate falls a little with every update, and the batch can only grow in steps",
    "sigmoid": "the rate changes a little with every update, and the batch can only grow in steps",
}


@dataclass(frozen=True, slots=True)
class StepDecay:
    """What a recipe with the policy step or multistep means, independent of the batch.

    Attributes:
        records: Records of the training set.
        updates_per_epoch: Updates in which the recipe's own batch covers the records, rounded up.
        epochs: How long the recipe trains.
        drops: Epochs at which the rate is multiplied by gamma, ascending, within the training.
        gamma: The factor, between 0 and 1.
        base_lr: The rate before the first drop.
    """

    records: int
    updates_per_epoch: int
    epochs: Fraction
    drops: tuple[Fraction, ...]
    gamma: Fraction
    base_lr: Fraction

    def lasting(self, epochs: Fraction) -> StepDecay:
        """The same decay over another number of epochs; the drops keep their place in the run."""
        factor = epochs / self.epochs
        return replace(self, epochs=epochs, drops=tuple(drop * factor for drop in self.drops))


def step_decay(solver: caffe_pb2.SolverParameter, records: int | None, own_batch: int) -> StepDecay:
    """The decay of a solver that drops its rate in steps, in epochs.

    Args:
        solver: The recipe's solver, in current syntax.
        records: Records of the training set, or None if unknown.
        own_batch: The effective batch that the recipe's update counts were written for.

    Raises:
        InputError: The records aren't known, or the rate has no drops that a batch could grow at.
    """
    if records is None:
        raise InputError(
            "a schedule counts in epochs, and the number of training records isn't known",
            hint=["Give ", Option("train_records"), "."],
        )
    _check_policy(solver)
    if solver.max_iter < 1:
        raise InputError(
            "the solver has no max_iter, so where the last stage of a schedule ends isn't known",
            hint="Set max_iter to the number of updates that the recipe trains for.",
        )
    gamma = as_written(solver.gamma)
    at = rate_drops(solver)
    if not at:
        raise InputError(
            f"the rate doesn't drop before max_iter {solver.max_iter}, so nothing can be turned "
            "into growth of the batch",
            hint="Check stepsize or stepvalue: they count updates.",
        )
    if len(at) > MAX_DROPS:
        raise InputError(
            f"the rate drops {len(at):,} times, and each stage of a schedule is a solver of its "
            "own",
            hint=f"At most {MAX_DROPS} drops can be turned into growth of the batch.",
        )
    updates_per_epoch = -(-records // own_batch)
    return StepDecay(
        records=records,
        updates_per_epoch=updates_per_epoch,
        epochs=Fraction(solver.max_iter, updates_per_epoch),
        drops=tuple(Fraction(update, updates_per_epoch) for update in at),
        gamma=gamma,
        base_lr=as_written(solver.base_lr),
    )


def _check_policy(solver: caffe_pb2.SolverParameter) -> None:
    policy, gamma = solver.lr_policy, solver.gamma
    if policy not in ("step", "multistep"):
        raise InputError(
            f"lr_policy {policy!r}: {_NO_DROPS.get(policy, 'Caffe has no such policy')}",
            hint="A schedule needs a recipe with the policy step or multistep.",
        )
    if not 0 < gamma < 1:
        raise InputError(
            f"gamma is {gamma:.7g}, and only a rate that drops can be turned into growth of the "
            "batch",
            hint="A schedule needs a gamma between 0 and 1.",
        )
    if policy == "step" and solver.stepsize < 1:
        raise InputError(
            f"lr_policy 'step' needs a stepsize above 0, found {solver.stepsize}",
            hint="Set stepsize in the solver: it counts updates.",
        )
    if policy == "multistep" and solver.stepvalue and solver.stepvalue[0] < 1:
        raise InputError(
            f"stepvalue {solver.stepvalue[0]} drops the rate before the first update",
            hint="Remove it, and multiply base_lr by gamma.",
        )
