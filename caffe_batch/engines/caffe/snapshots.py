"""Caffe's snapshots: which there are, which are whole, which to keep.

A snapshot counts once both files parse and agree and their checksums are recorded in a small JSON
file beside them. Where the supervisor was killed before it could record one, it counts if it parses
and agrees. Nothing damaged is deleted: it is renamed, and so no longer looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from caffe_batch.engines.caffe.snapshot_contents import check_contents as check_contents
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.errors import InputError, Option, Text
from caffe_batch.files import write_text

_STATE = re.compile(r"(?P<stem>.+_iter_(?P<update>\d+))\.solverstate(?P<hdf5>\.h5)?")

#: What a file that is set aside is called: its name and one of these.
CORRUPT, DIVERGED = ".corrupt", ".diverged"

#: What the solverstate of a snapshot is called that is being deleted.
_DELETED = ".deleted"


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder of which both files are there, oldest first.

    Caffe names them ``PREFIX_iter_N.caffemodel`` and ``.solverstate``, both with ``.h5`` behind
    in the HDF5 format, and writes the weights first (solver.cpp, sgd_solver.cpp).
    """
    found = [snapshot_of(state) for state in folder.glob("*_iter_*.solverstate*")]
    return sorted(each for each in found if each and each.weights.is_file())


def snapshot_of(state: Path) -> Snapshot | None:
    """The snapshot that a solverstate belongs to, by the names; None if it is no solverstate."""
    match = _STATE.fullmatch(state.name)
    if not match:
        return None
    weights = state.with_name(f"{match['stem']}.caffemodel{match['hdf5'] or ''}")
    return Snapshot(int(match["update"]), state, weights)


def named_snapshot(state: Path) -> Snapshot:
    """The snapshot whose solverstate a person has named, there and not something else.

    Raises:
        InputError: It is missing, isn't a solverstate, or its weights aren't beside it.
    """
    snapshot = snapshot_of(state.resolve())
    if snapshot is None:
        raise InputError(
            f"{state}: not named as Caffe names its solverstates, PREFIX_iter_N.solverstate",
            hint=_meant(state)
            or ["Weights without a solver's state are given as ", Option("weights"), "."],
        )
    for file in (snapshot.state, snapshot.weights):
        if not file.is_file():
            raise InputError(
                f"{file}: no such file",
                hint=_other_format(snapshot)
                or "A snapshot is a pair of files, .solverstate and .caffemodel, in one folder.",
            )
    return snapshot


def _meant(path: Path) -> Text | None:
    """What to do with a file that is no solverstate by its name."""
    name = path.name.replace(".caffemodel", ".solverstate")
    if name == path.name:
        return None
    if path.with_name(name).is_file():
        return f"These are the weights of a snapshot: give {path.with_name(name)}."
    weights = Option("weights", str(path))
    return ["These are weights: ", weights, " begins with them, at update 0."]


def _other_format(snapshot: Snapshot) -> str | None:
    """A hint where the files of a snapshot are there in the other format."""
    name = snapshot.state.name
    other = name.removesuffix(".h5") if name.endswith(".h5") else f"{name}.h5"
    found = snapshot.state.with_name(other)
    return f"There is {found}." if found.is_file() else None


def confirm(snapshot: Snapshot) -> None:
    """Record a snapshot that was just taken, if it is whole; it is on the disk then.

    Raises:
        DamagedSnapshotError: It isn't whole.
    """
    try:
        check_contents(snapshot.update, snapshot.state, snapshot.weights)
        sums = {file.name: _checksum(file, sync=True) for file in _both(snapshot)}
    except OSError as error:
        raise DamagedSnapshotError(f"{error.filename}: {error.strerror}") from error
    write_text(snapshot.record, json.dumps({"update": snapshot.update, "files": sums}) + "\n")
    _sync_folder(snapshot.state.parent)


def check(snapshot: Snapshot) -> None:
    """Check that a snapshot is what was recorded of it; one without a record is recorded now.

    Raises:
        DamagedSnapshotError: It isn't whole, or not the one that was recorded.
    """
    try:
        recorded = json.loads(snapshot.record.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        confirm(snapshot)
        return
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSnapshotError(f"{snapshot.record.name} is damaged") from error
    for file in _both(snapshot):
        known = recorded.get(file.name)
        # The size first: a cut file of gigabytes need not be read.
        if not known or known["bytes"] != file.stat().st_size or known != _checksum(file):
            raise DamagedSnapshotError(f"{file.name} is not the file that was recorded")


def newest_whole(folder: Path, last_update: int) -> tuple[Snapshot | None, tuple[str, ...]]:
    """The newest snapshot that is whole; those newer ones that aren't are set aside.

    So are newer weights without a solverstate: Caffe writes them first, and was killed then.

    Args:
        folder: Where they lie.
        last_update: Later ones don't belong to the job, and are left alone.

    Returns:
        The snapshot or None, and a sentence on each that was set aside.
    """
    notes: list[str] = []
    newest = None
    for snapshot in reversed(list_snapshots(folder)):
        if snapshot.update > last_update:
            continue
        try:
            check(snapshot)
        except DamagedSnapshotError as damage:
            set_aside(snapshot, CORRUPT)
            notes.append(_aside(snapshot, damage.message, snapshot.state))
        else:
            newest = snapshot
            break
    for snapshot in _weights_alone(folder):
        if (newest.update if newest else -1) < snapshot.update <= last_update:
            set_aside(snapshot, CORRUPT)
            why = f"there is no {snapshot.state.name}"
            notes.append(_aside(snapshot, why, snapshot.weights))
    return newest, tuple(notes)


def _weights_alone(folder: Path) -> list[Snapshot]:
    """Weights without a solverstate, as snapshots, oldest first."""
    states = (
        weights.with_name(weights.name.replace(".caffemodel", ".solverstate"))
        for weights in folder.glob("*_iter_*.caffemodel*")
    )
    found = [snapshot_of(state) for state in states if not state.exists()]
    return sorted(each for each in found if each)


def _aside(snapshot: Snapshot, why: str, file: Path) -> str:
    return (
        f"Update {snapshot.update} has a snapshot that is not whole ({why}): {file.name} is now "
        f"called {file.name}{CORRUPT}."
    )


def set_aside(snapshot: Snapshot, suffix: str) -> None:
    """Rename the files of a snapshot, so that nothing goes on from it."""
    for file in snapshot.files:
        if file.exists():
            file.rename(file.with_name(file.name + suffix))


def set_aside_from(folder: Path, update: int) -> None:
    """Rename the snapshots of a training that has diverged: those from this update on."""
    for snapshot in list_snapshots(folder):
        if snapshot.update >= update:
            set_aside(snapshot, DIVERGED)


def take_in(state: Path) -> None:
    """Record a snapshot that was just taken.

    Args:
        state: Its solverstate.

    Raises:
        DamagedSnapshotError: It isn't whole. It is set aside.
    """
    snapshot = snapshot_of(state)
    if snapshot is None:
        raise DamagedSnapshotError(f"{state.name} is no name of a solverstate")
    try:
        confirm(snapshot)
    except DamagedSnapshotError:
        set_aside(snapshot, CORRUPT)
        raise


def prune(folder: Path, keep_last: int | None, keep_every: int | None) -> None:
    """Delete the snapshots that are not to be kept, of those that are known to be whole.

    Args:
        folder: Where they lie.
        keep_last: So many of the newest stay; None for all, or with ``keep_every`` for one.
        keep_every: Of each so many updates the first snapshot stays as well.
    """
    whole = [snapshot for snapshot in list_snapshots(folder) if snapshot.record.is_file()]
    for snapshot in superfluous(whole, keep_last, keep_every):
        snapshot.state.rename(snapshot.state.with_name(snapshot.state.name + _DELETED))
    finish_pruning(folder)


def finish_pruning(folder: Path) -> None:
    """Delete the rest of the snapshots that :func:`prune` had chosen, whatever cut it short."""
    for state in folder.glob(f"*.solverstate*{_DELETED}"):
        snapshot = snapshot_of(state.with_name(state.name.removesuffix(_DELETED)))
        if snapshot:
            snapshot.weights.unlink(missing_ok=True)
            snapshot.record.unlink(missing_ok=True)
            state.unlink()


def superfluous(
    snapshots: Sequence[Snapshot], keep_last: int | None, keep_every: int | None
) -> list[Snapshot]:
    """The snapshots that need not be kept (see :func:`prune`), oldest first."""
    if keep_last is None and keep_every is None:
        return []
    old = list(snapshots[: -(keep_last or 1)])
    if keep_every is None:
        return old
    first: dict[int, Snapshot] = {}
    for snapshot in snapshots:
        first.setdefault(snapshot.update // keep_every, snapshot)
    return [snapshot for snapshot in old if snapshot not in first.values()]


def _both(snapshot: Snapshot) -> tuple[Path, Path]:
    return snapshot.state, snapshot.weights


def _checksum(path: Path, *, sync: bool = False) -> dict[str, int | str]:
    """Size and SHA-256 of a file; with ``sync`` it is on the disk afterwards."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
