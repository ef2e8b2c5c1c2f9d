"""What training relies on in a solver, checked before anything is written or started.

Sources: solver.cpp (Init), sgd_solvers.hpp (constructor_sanity_check), sgd_solver.cpp
(GetLearningRate, Regularize).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from caffe_batch.errors import InputError, Option, Text
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import learning_rate

#: Update rules that abort if momentum is set.
_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")

#: The penalties on the weights.
_REGULARIZATIONS = ("L1", "L2")

#: Policies for which Caffe refuses a negative gamma.
_GAMMA_POLICIES = ("step", "exp", "inv", "multistep", "sigmoid")

#: Fields in which nan or an infinite number reaches the weights; base_lr is judged with the policy.
_FINITE = ("gamma", "power", "momentum", "momentum2", "weight_decay", "delta", "rms_decay")


def check_solver(
    solver: caffe_pb2.SolverParameter, path: Path | None, *, needs_length: bool = True
) -> None:
    """Refuse a solver that Caffe can't train with, or with which it would train nothing.

    Args:
        solver: The solver, in current syntax.
        path: Its file, for messages; None for a solver from the template.
        needs_length: Whether the solver itself has to say how many updates there are. If not, a
            solver without max_iter, meant for a program that steps it, is accepted.

    Raises:
        InputError: No update to do, an update without passes, a value that Caffe refuses, or a
            first learning rate that isn't finite.
    """
    where = f"{path}: " if path is not None else ""
    if needs_length or solver.HasField("max_iter"):
        _check_length(solver, where)
    for message, hint in _refused(solver):
        raise InputError(f"{where}{message}", hint=hint)
    try:
        rate = learning_rate(solver, 0)
    except InputError as error:
        raise InputError(f"{where}{error.message}", hint=error.hint) from error
    if not math.isfinite(rate):
        raise InputError(
            f"{where}the learning rate of the first update is {rate}",
            hint="Correct base_lr, gamma and power.",
        )


def _check_length(solver: caffe_pb2.SolverParameter, where: str) -> None:
    """Refuse a solver with no update to do."""
    if solver.max_iter >= 1:
        return
    if solver.HasField("max_iter"):
        raise InputError(
            f"{where}max_iter is {solver.max_iter}, so there is no update to do",
            hint="Set max_iter to the number of updates that the recipe trains for.",
        )
    raise InputError(
        f"{where}the solver has no max_iter: it is meant for a program that steps it, and doesn't "
        "say how long to train",
        hint=["Plan with ", Option("epochs"), ", or set max_iter to the number of updates."],
    )


def _refused(solver: caffe_pb2.SolverParameter) -> Iterator[tuple[str, Text]]:
    """What Caffe refuses, or trains nothing with: a sentence and a hint for each."""
    kind, momentum = solver.type, solver.momentum
    if solver.iter_size < 1:
        yield (
            f"the solver has iter_size {solver.iter_size}, and an update takes at least one pass",
            "Set iter_size to the number of passes in one update of the recipe, at least 1.",
        )
    if solver.average_loss < 1:
        yield (
            f"average_loss is {solver.average_loss}, and Caffe refuses anything below 1",
            "Set it to the number of updates over which the loss in the log is averaged.",
        )
    for name in _FINITE:
        value = getattr(solver, name)
        if not math.isfinite(value):
            yield f"{name} is {value}, and no update has a meaning with that", "Correct it."
    if kind in _WITHOUT_MOMENTUM and momentum:
        yield (
            f"momentum is {momentum:.7g}, and {kind} has none in Caffe",
            "Remove momentum, or use another type.",
        )
    if kind == "Adam" and (momentum == 1 or solver.momentum2 >= 1):
        name = "momentum" if momentum == 1 else "momentum2"
        yield (
            f"{name} is {getattr(solver, name):.7g}, and with that Adam's updates are 0 or NaN",
            "Set it below 1; the authors of Adam suggest momentum 0.9 and momentum2 0.999.",
        )
    if kind == "RMSProp" and not 0 <= solver.rms_decay < 1:
        yield (
            f"rms_decay is {solver.rms_decay:.7g}, and Caffe requires at least 0 and less than 1",
            "Set it between 0 and 1; Caffe's default is 0.99.",
        )
    if solver.weight_decay and solver.regularization_type not in _REGULARIZATIONS:
        yield (
            f"Caffe has no regularization_type {solver.regularization_type!r}",
            "Give L1 or L2.",
        )
    if solver.lr_policy in _GAMMA_POLICIES and solver.gamma < 0:
        yield (
            f"gamma is {solver.gamma:.7g}, and Caffe refuses a negative gamma with lr_policy "
            f"{solver.lr_policy!r}",
            "Set gamma to the factor of a drop, or to the speed of the decay.",
        )
    if solver.lr_policy == "poly" and solver.max_iter < 1:
        yield (
            "lr_policy 'poly' ends at max_iter, which isn't set",
            "Set max_iter to the number of updates that the recipe trains for.",
        )
