"""A solver that goes on for longer than its max_iter: what changes, and what its rate does then."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.edits.solver_fields import MAX_UPDATES, set_field
from caffe_batch.planning.schedule.rescaling import NEAR_LENGTH, last_snapshot
from caffe_batch.planning.schedule.spacing import Stretch, spaced_tests
from caffe_batch.planning.split.candidates import divisors
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.solver.testing import has_test_at, has_test_at_end


def longer_changes(
    solver: caffe_pb2.SolverParameter, first: int, length: int, reason: str
) -> tuple[Change, ...]:
    """The changes with which a solver ends later.

    If its end is tested, so is the new one: the length moves by a hundredth of itself at most, or
    else test_interval to the nearest number that divides it.

    Args:
        solver: The solver, the last one of its run.
        first: Updates done when it begins.
        length: Updates of the whole run, more than max_iter.
        reason: Why, in a few words.
    """
    interval, why = solver.test_interval, reason
    tested = bool(solver.test_iter) and has_test_at_end(solver)
    if tested and not has_test_at(interval, length):
        moved = interval * round(Fraction(length, interval))
        near = abs(moved - length) <= length * NEAR_LENGTH
        if near and solver.max_iter < moved <= MAX_UPDATES:
            length, why = moved, f"{reason}; {moved} so that the last update is tested"
        else:
            interval = _dividing(first, length, interval)
    changes = [
        *set_field(solver, "max_iter", length, why),
        *set_field(
            solver, "test_interval", interval, f"{reason}; {interval} so that its end is tested"
        ),
        *last_snapshot(solver, length, solver.snapshot),
    ]
    return tuple(changes)


def longer_notes(
    before: caffe_pb2.SolverParameter, after: caffe_pb2.SolverParameter, done: int
) -> Iterator[str]:
    """What a longer run does to the learning rate and the tests, a sentence or two each.

    Args:
        before: The solver as it was.
        after: The solver with its changes.
        done: Updates done so far.
    """
    policy, last = after.lr_policy, after.max_iter
    now, end = learning_rate(after, done), learning_rate(after, last - 1)
    if policy == "poly":
        was = learning_rate(before, min(done, before.max_iter))
        yield (
            f"lr_policy poly ends at max_iter, so that the rate follows another curve from here "
            f"on: the next update has {now:.4g} instead of {was:.4g}, the last one {end:.4g}."
        )
    elif now == end:
        yield f"The learning rate stays at {now:.4g} (lr_policy {policy})."
    else:
        yield (
            f"The learning rate goes on as lr_policy {policy} says: {now:.4g} in the next update, "
            f"{end:.4g} in the last one."
        )
    if after.test_interval != before.test_interval:
        yield (
            f"Tests come every {after.test_interval} updates instead of {before.test_interval}, so "
            "that the last update is tested. If a test doesn't read the whole test set, the next "
            "one may begin at another record."
        )


def _dividing(first: int, length: int, interval: int) -> int:
    """The test_interval nearest to another one that tests after the last update."""
    if first:  # the stages before have their own; this one's need only divide the end
        return min(divisors(length), key=lambda each: abs(each - interval))
    (nearest,) = spaced_tests([Stretch(0, length, Fraction(interval))])
    return nearest
