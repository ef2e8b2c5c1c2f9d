"""The curve of the learning rate over a run of another length.

Rates that drop at certain updates drop at the same points of the run; rates that are a formula of
the update counter get the constants that make the same curve (sgd_solver.cpp, GetLearningRate).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.edits.solver_fields import (
    MAX_UPDATES,
    epochs_text,
    rounding,
    set_field,
    whole_or_never,
    whole_updates,
)
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import MAX_DROPS
from caffe_batch.solver.drops import multistep_drops, rate_drops
from caffe_batch.solver.numbers import as_float32


def rate_curve_changes(
    solver: caffe_pb2.SolverParameter,
    run: Fraction,
    length: int | None,
    epochs: Fraction | None,
) -> Iterator[Change]:
    """What keeps the rate's curve over the length of the run (sgd_solver.cpp)."""
    policy = solver.lr_policy
    over = "the same samples" if epochs is None else f"the run's {epochs_text(epochs)}"
    if policy == "step" and solver.stepsize > 0:
        yield from _step(solver, run, length)
    elif policy == "multistep":
        yield from _multistep(solver, run, length)
    elif policy in ("exp", "inv", "sigmoid"):
        gamma = as_float32(solver.gamma)
        after = as_float32(gamma ** float(1 / run) if policy == "exp" else gamma / float(run))
        if after != gamma:
            reason = f"the recipe's whole {policy} curve over {over}"
            yield Change("solver", ("gamma",), gamma, after, reason)
        if policy == "sigmoid":
            exact = solver.stepsize * run
            why = "the middle of the curve stays where it is in the run"
            yield from set_field(solver, "stepsize", whole_or_never(exact), why + rounding(exact))


def _multistep(
    solver: caffe_pb2.SolverParameter, run: Fraction, length: int | None
) -> Iterator[Change]:
    """Drops within the run stay within it; those that never happened still don't."""
    exact = [at * run for at in multistep_drops(solver.stepvalue)]
    end = MAX_UPDATES if length is None else length
    within = len(rate_drops(solver)) if solver.max_iter > 0 else len(exact)
    places = placed_drops(exact[:within], end)
    places += [max(whole_or_never(each), end) for each in exact[within:]]
    for i, (before, at, after) in enumerate(zip(solver.stepvalue, exact, places, strict=True)):
        if after != before:
            reason = "the drop stays where it is in the run"
            if i < within and after != max(1, round(at)):
                reason += ", separate from the others and before max_iter"
            yield Change("solver", ("stepvalue", i), before, after, reason + rounding(at))


def placed_drops(exact: Sequence[Fraction], length: int) -> list[int]:
    """The updates done when each drop happens, rounded once, all different and before ``length``.

    Caffe drops the rate at most once per update, and never after the last. If a run has fewer
    updates than drops, the first ones get one each.

    Args:
        exact: Where they would happen, ascending; a drop at 0 comes before the first update.
        length: Updates of the run.

    >>> placed_drops([Fraction(0), Fraction(3, 2), Fraction(8, 5), Fraction(39, 4)], 10)
    [0, 2, 3, 9]
    """
    places: list[int] = []
    for at in exact:
        nearest = whole_updates("stepvalue", at) if at else 0
        places.append(max(nearest, places[-1] + 1) if places else nearest)
    room = length if places[:1] == [0] else length - 1
    if len(places) <= room:
        latest = range(length - len(places), length)
        places = [min(place, last) for place, last in zip(places, latest, strict=True)]
    return places


def _step(solver: caffe_pb2.SolverParameter, run: Fraction, length: int | None) -> Iterator[Change]:
    """A stepsize that isn't whole would drift, so its drops are listed one by one."""
    exact, drops = solver.stepsize * run, len(rate_drops(solver))
    stepsize = whole_or_never(exact)
    if drops > MAX_DROPS or length is None or solver.max_iter < 1:
        why = "the drops stay where they are in the run"
        if exact.denominator != 1 and drops:
            drift = abs(stepsize - exact) * drops
            why += f"; the last of {drops} is {float(drift):.1f} updates off by rounding"
        yield from set_field(solver, "stepsize", stepsize, why + rounding(exact))
        return
    places = placed_drops([exact * (i + 1) for i in range(drops)], length)
    if places == list(range(stepsize, length, stepsize)):
        why = "the drops stay where they are in the run"
        yield from set_field(solver, "stepsize", stepsize, why + rounding(exact))
        return
    why = f"{float(exact):.2f} updates between drops: each drop is rounded separately"
    yield Change("solver", ("lr_policy",), "step", "multistep", why)
    yield Change("solver", ("stepsize",), solver.stepsize, None, why)
    unused = list(solver.stepvalue)  # a step policy doesn't read them
    for i, place in enumerate(places):
        before = unused[i] if i < len(unused) else None
        yield Change("solver", ("stepvalue", i), before, place, why)
    for i in reversed(range(drops, len(unused))):
        yield Change("solver", ("stepvalue", i), unused[i], None, why)
