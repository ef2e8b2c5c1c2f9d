"""Caffe's learning-rate policies (sgd_solver.cpp, GetLearningRate).

pycaffe's ``solver.lr`` is not used while training: reading it advances the step counter of the
multistep policy.
"""

from __future__ import annotations

import math

from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.drops import multistep_drops_done

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def learning_rate(solver: caffe_pb2.SolverParameter, done: int) -> float:
    """The learning rate that Caffe applies in the update that follows ``done`` updates.

    Args:
        solver: A solver in current syntax.
        done: Updates done before it (Caffe's iteration number); 0 for the first update.

    Returns:
        The rate, in double precision; Caffe's own is the nearest float, or a few ulps away.

    Raises:
        InputError: The solver has no lr_policy, or one that Caffe doesn't have.

    >>> solver = caffe_pb2.SolverParameter(
    ...     base_lr=0.5, lr_policy="step", gamma=0.5, stepsize=100)
    >>> learning_rate(solver, 99), learning_rate(solver, 100)
    (0.5, 0.25)
    """
    base, gamma, power = solver.base_lr, solver.gamma, solver.power
    policy = solver.lr_policy
    if policy == "fixed":
        return base
    if policy == "step":
        _check_stepsize(solver)
        return base * _power(gamma, done // solver.stepsize)
    if policy == "exp":
        return base * _power(gamma, done)
    if policy == "inv":
        return base * _power(1 + gamma * done, -power)
    if policy == "multistep":
        return base * _power(gamma, multistep_drops_done(solver.stepvalue, done))
    if policy == "poly":
        return base * _power(1 - done / solver.max_iter, power)
    if policy == "sigmoid":
        _check_stepsize(solver)
        # The logistic function written with tanh: exp would overflow long before the stepsize.
        return base * (1 + math.tanh(gamma * (done - solver.stepsize) / 2)) / 2
    raise InputError(
        f"Caffe has no lr_policy {policy!r}" if policy else "the solver has no lr_policy",
        hint=did_you_mean(policy, POLICIES) or f"Caffe's policies are {', '.join(POLICIES)}.",
    )


def _power(base: float, exponent: float) -> float:
    """``base ** exponent`` as C's pow computes it: inf and nan instead of exceptions."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


def _check_stepsize(solver: caffe_pb2.SolverParameter) -> None:
    if solver.stepsize <= 0:
        raise InputError(
            f"lr_policy {solver.lr_policy!r} needs a stepsize above 0, found {solver.stepsize}",
            hint="Set stepsize in the solver: it counts updates.",
        )
