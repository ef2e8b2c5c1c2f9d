"""When the policies step and multistep drop the learning rate (sgd_solver.cpp, GetLearningRate)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from caffe_batch.schema import caffe_pb2


def rate_drops(solver: caffe_pb2.SolverParameter) -> Sequence[int]:
    """The number of updates done at each drop before max_iter; none for other policies."""
    if solver.lr_policy == "step" and solver.stepsize > 0:
        return range(solver.stepsize, solver.max_iter, solver.stepsize)
    if solver.lr_policy == "multistep":
        return [update for update in multistep_drops(solver.stepvalue) if update < solver.max_iter]
    return ()


def multistep_drops(stepvalues: Sequence[int]) -> list[int]:
    """How many updates are done when each stepvalue drops the rate, even after max_iter.

    An update drops the rate at most once: a value that has already been passed takes effect in the
    next update.

    >>> multistep_drops([5, 5, 9])
    [5, 6, 9]
    """
    drops: list[int] = []
    for value in stepvalues:
        drops.append(max(value, drops[-1] + 1) if drops else value)
    return drops


def multistep_drops_done(stepvalues: Sequence[int], done: int) -> int:
    """How often multistep has dropped the rate for the update that follows ``done`` updates."""
    return bisect_right(multistep_drops(stepvalues), done)
