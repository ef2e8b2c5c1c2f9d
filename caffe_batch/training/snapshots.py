"""Caffe's snapshots: which there are, and which to go on from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.errors import InputError

_STATE = re.compile(r"(?P<stem>.+_iter_(?P<update>\d+))\.solverstate(?P<hdf5>\.h5)?")


@dataclass(frozen=True, order=True)
class Snapshot:
    """A pair of files that Caffe can go on from.

    Attributes:
        update: Updates done when it was taken (Caffe's iteration).
        state: The solverstate: counters and the solver's history.
        weights: The caffemodel.
    """

    update: int
    state: Path
    weights: Path


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder of which both files are there, oldest first.

    Caffe names them ``PREFIX_iter_N.caffemodel`` and ``.solverstate``, both with ``.h5`` behind
    in the HDF5 format, and writes the weights first (solver.cpp, sgd_solver.cpp).
    """
    found = []
    for state in folder.glob("*_iter_*.solverstate*"):
        match = _STATE.fullmatch(state.name)
        if match:
            weights = folder / f"{match['stem']}.caffemodel{match['hdf5'] or ''}"
            if weights.is_file():
                found.append(Snapshot(int(match["update"]), state, weights))
    return sorted(found)


def named_snapshot(state: Path) -> Snapshot:
    """The snapshot whose solverstate a person has named.

    Raises:
        InputError: It is missing, not named as Caffe names it, or its weights aren't beside it.
    """
    match = _STATE.fullmatch(state.name)
    if not match:
        raise InputError(
            f"{state}: not named as Caffe names its solverstates, PREFIX_iter_N.solverstate",
            hint="Weights without a solver's state are given with --weights.",
        )
    weights = state.with_name(f"{match['stem']}.caffemodel{match['hdf5'] or ''}")
    for file in (state, weights):
        if not file.is_file():
            raise InputError(
                f"{file}: no such file",
                hint="A snapshot is a pair of files, .solverstate and .caffemodel, in one folder.",
            )
    return Snapshot(int(match["update"]), state.resolve(), weights.resolve())
