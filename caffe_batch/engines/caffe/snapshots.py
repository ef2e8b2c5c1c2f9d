"""Caffe's snapshots: which there are, which are whole, which to keep.

A snapshot counts once both files parse and agree and their checksums are recorded in a small JSON
file beside them. If the supervisor was killed before it could record one, it counts if its files
parse and agree. Nothing damaged is deleted: it is renamed and no longer considered.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from caffe_batch.engines.caffe.snapshot_contents import check_contents as check_contents
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.errors import InputError, Option, Text
from caffe_batch.files import open_regular, write_text
from caffe_batch.jobs.json_files import Fields, read_object

_STATE = re.compile(r"(?P<stem>.+_iter_(?P<update>\d+))\.solverstate(?P<hdf5>\.h5)?")

#: Suffixes of files that are set aside.
CORRUPT, DIVERGED = ".corrupt", ".diverged"

#: Suffix of the solverstate of a snapshot that is being deleted.
_DELETED = ".deleted"


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder that have both files, oldest first.

    Caffe names them ``PREFIX_iter_N.caffemodel`` and ``.solverstate``, both followed by ``.h5``
    in the HDF5 format, and writes the weights first (solver.cpp, sgd_solver.cpp).
    """
    found = [snapshot_of(state) for state in folder.glob("*_iter_*.solverstate*")]
    return sorted(each for each in found if each and each.weights.is_file())


def snapshot_of(state: Path) -> Snapshot | None:
    """The snapshot that a solverstate belongs to, by name; None if it isn't a solverstate."""
    match = _STATE.fullmatch(state.name)
    if not match:
        return None
    weights = state.with_name(f"{match['stem']}.caffemodel{match['hdf5'] or ''}")
    return Snapshot(int(match["update"]), state, weights)


def named_snapshot(state: Path) -> Snapshot:
    """The snapshot whose solverstate the user has named, checked to exist.

    Raises:
        InputError: It is missing, isn't a solverstate, or its weights aren't beside it.
    """
    snapshot = snapshot_of(state.resolve())
    if snapshot is None:
        raise InputError(
            f"{state}: not named PREFIX_iter_N.solverstate, as Caffe names its solverstates",
            hint=_meant(state)
            or ["To start from weights without a solver's state, give ", Option("weights"), "."],
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
    """What to do with a file whose name isn't that of a solverstate."""
    name = path.name.replace(".caffemodel", ".solverstate")
    if name == path.name:
        return None
    if path.with_name(name).is_file():
        return f"These are the weights of a snapshot: give {path.with_name(name)}."
    weights = Option("weights", str(path))
    return ["These are weights: ", weights, " starts from them, at update 0."]


def _other_format(snapshot: Snapshot) -> str | None:
    """A hint if the snapshot's files exist in the other format."""
    name = snapshot.state.name
    other = name.removesuffix(".h5") if name.endswith(".h5") else f"{name}.h5"
    found = snapshot.state.with_name(other)
    return f"There is {found}." if found.is_file() else None


def confirm(snapshot: Snapshot) -> None:
    """Record a snapshot that was just taken, if it is whole; it is then on the disk.

    Raises:
        DamagedSnapshotError: It isn't whole.
    """
    try:
        check_contents(snapshot.update, snapshot.state, snapshot.weights)
        there = [snapshot.moment] if snapshot.moment.is_file() else []
        sums = {file.name: _checksum(file, sync=True) for file in (*_both(snapshot), *there)}
    except OSError as error:
        raise DamagedSnapshotError(f"{error.filename}: {error.strerror}") from error
    write_text(snapshot.record, json.dumps({"update": snapshot.update, "files": sums}) + "\n")
    _sync_folder(snapshot.state.parent)


def check(snapshot: Snapshot) -> None:
    """Check a snapshot against its record; one without a record is recorded now.

    Raises:
        DamagedSnapshotError: It isn't whole, or isn't the one that was recorded.
    """
    try:
        recorded = read_object(snapshot.record).nested("files")
        known = {file: _recorded(recorded, file.name) for file in _both(snapshot)}
    except FileNotFoundError:
        confirm(snapshot)
        return
    except (InputError, OSError) as error:
        raise DamagedSnapshotError(f"{snapshot.record.name} is damaged") from error
    for file, checksum in known.items():
        # The size first: a truncated file of gigabytes need not be read.
        if (
            checksum is None
            or checksum["bytes"] != file.stat().st_size
            or checksum != _checksum(file)
        ):
            raise DamagedSnapshotError(f"{file.name} is not the file that was recorded")


def _recorded(files: Fields, name: str) -> dict[str, int | str] | None:
    """Size and SHA-256 of a file as they were recorded; None if it wasn't."""
    if name not in files.content:
        return None
    known = files.nested(name)
    return {"bytes": known.integer("bytes"), "sha256": known.text("sha256")}


def newest_whole(folder: Path, last_update: int) -> tuple[Snapshot | None, tuple[str, ...]]:
    """The newest snapshot that is whole; newer ones that aren't are set aside.

    So are newer weights without a solverstate: Caffe writes them first, and was killed after that.

    Args:
        folder: Where they are.
        last_update: Later ones don't belong to the job, and are left alone.

    Returns:
        The snapshot or None, and a sentence about each one that was set aside.
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
        f"The snapshot of update {snapshot.update} is not whole ({why}): {file.name} is now "
        f"called {file.name}{CORRUPT}."
    )


def set_aside(snapshot: Snapshot, suffix: str) -> None:
    """Rename the files of a snapshot, so that nothing continues from it."""
    for file in snapshot.files:
        if file.exists():
            file.rename(file.with_name(file.name + suffix))


def set_aside_from(folder: Path, update: int) -> None:
    """Rename the snapshots of a diverged training, from this update on."""
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
        raise DamagedSnapshotError(f"{state.name} is not the name of a solverstate")
    try:
        confirm(snapshot)
    except DamagedSnapshotError:
        set_aside(snapshot, CORRUPT)
        raise


def prune(
    folder: Path,
    keep_last: int | None,
    keep_every: int | None,
    stays: Callable[[int], bool] | None = None,
) -> None:
    """Delete the snapshots that need not be kept, among those that are known to be whole.

    Args:
        folder: Where they are.
        keep_last: How many of the newest stay; None for all, or with ``keep_every`` for one.
        keep_every: The first snapshot in each period of this many updates stays as well.
        stays: Whether the snapshot after some updates stays in any case; None for none.
    """
    whole = [snapshot for snapshot in list_snapshots(folder) if snapshot.record.is_file()]
    for snapshot in superfluous(whole, keep_last, keep_every):
        if stays is not None and stays(snapshot.update):
            continue
        snapshot.state.rename(snapshot.state.with_name(snapshot.state.name + _DELETED))
    finish_pruning(folder)


def finish_pruning(folder: Path) -> None:
    """Delete the rest of the snapshots that :func:`prune` had chosen before it was cut short."""
    for state in folder.glob(f"*.solverstate*{_DELETED}"):
        snapshot = snapshot_of(state.with_name(state.name.removesuffix(_DELETED)))
        if snapshot:
            for file in snapshot.files[1:]:
                file.unlink(missing_ok=True)
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
    with open_regular(path) as file:
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
