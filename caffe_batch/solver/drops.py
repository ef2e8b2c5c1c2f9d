"""When the policies step and multistep drop the learning rate (sgd_solver.cpp, GetLearningRate)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from caffe_batch.schema import caffe_pb2


def rate_drops(solver: caffe_pb2.SolverParameter) -> Sequence[int]:
    """The updates done when the rate drops, those before max_iter; none for other policies."""
    if solver.lr_policy == "step" and solver.stepsize > 0:
        return range(solver.stepsize, solver.max_iter, solver.stepsize)
    if solver.lr_policy == "multistep":
        return [update for update in multistep_drops(solver.stepvalue) if update < solver.max_iter]
    return ()


def multistep_drops(stepvalues: Sequence[int]) -> list[int]:
    """The updates done when each stepvalue drops the rate, max_iter or not.

    At most one does in an update: a value that is already passed waits for the next.

    >>> multistep_drops([5, 5, 9])
    [5, 6, 9]
    """
    drops: list[int] = []
    for value in stepvalues:
        drops.append(max(value, drops[-1] + 1) if drops else value)
    return drops


def multistep_drops_done(stepvalues: Sequence[int], done: int) -> int:
    """How many drops the multistep policy has made for the update that follows ``done`` updates."""
    return bisect_right(multistep_drops(stepvalues), done)
