"""What training relies on in a solver, checked before anything is written or started."""

from __future__ import annotations

import math
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import learning_rate


def check_solver(solver: caffe_pb2.SolverParameter, path: Path | None) -> None:
    """Refuse a solver that Caffe can't train with, or with which it would train nothing.

    Args:
        solver: The solver, in current syntax.
        path: Its file, for messages; None for a solver from the template.

    Raises:
        InputError: No update to do, an unknown policy, or a first learning rate that isn't finite.
    """
    where = f"{path}: " if path is not None else ""
    if solver.max_iter < 1:
        raise InputError(
            f"{where}max_iter is {solver.max_iter}, so there is no update to do",
            hint="Set max_iter to the number of updates that the recipe trains for.",
        )
    try:
        rate = learning_rate(solver, 0)
    except InputError as error:
        raise InputError(f"{where}{error.message}", hint=error.hint) from error
    if not math.isfinite(rate):
        raise InputError(
            f"{where}the learning rate of the first update is {rate}",
            hint="Correct base_lr, gamma and power.",
        )
