"""When Caffe tests: before an update and after the last one (solver.cpp, Step and Solve)."""

from __future__ import annotations

from caffe_batch.schema import caffe_pb2


def has_test_at(interval: int, update: int) -> bool:
    """Whether Caffe tests when it continues after this many updates, or ends there.

    Args:
        interval: The solver's test_interval; 0 for no tests.
        update: Updates done, over all solvers of a run.
    """
    return interval > 0 and update % interval == 0


def has_test_at_end(solver: caffe_pb2.SolverParameter) -> bool:
    """Whether Caffe tests after the last update."""
    return has_test_at(solver.test_interval, solver.max_iter)


def runs_tests(solver: caffe_pb2.SolverParameter) -> bool:
    """Whether Caffe tests at all in the solver's updates, however many a driver makes of them."""
    interval = solver.test_interval
    if interval <= 0:
        return False
    return solver.test_initialization or solver.max_iter < 1 or interval <= solver.max_iter


def number_of_tests(solver: caffe_pb2.SolverParameter, first: int, end: int) -> int:
    """How many tests a solver runs from ``first`` updates done up to, but not including, ``end``.

    A test after its last update isn't counted.
    """
    interval = solver.test_interval
    if interval <= 0 or end <= first:
        return 0
    tests = -(-end // interval) - -(-first // interval)
    return tests - (first == 0 and not solver.test_initialization)
