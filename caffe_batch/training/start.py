"""What the first update of a run starts from, if not from the fillers' values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot, SnapshotFiles
from caffe_batch.errors import InputError, Option
from caffe_batch.files import not_a_file
from caffe_batch.jobs.record import JobRecord


@dataclass(frozen=True)
class StartingPoint:
    """What a run starts from; both are empty for the fillers' values at update 0.

    Attributes:
        weights: .caffemodel files for update 0, absolute, loaded one after the other.
        state: The solverstate of another run to continue from, absolute.
    """

    weights: tuple[str, ...] = ()
    state: str | None = None

    def snapshot(self, updates: int, files: SnapshotFiles) -> Snapshot | None:
        """The snapshot to continue from if the run itself has none; None for update 0.

        Args:
            updates: Updates to do in total.
            files: The engine's snapshots.

        Raises:
            InputError: A file is missing, or the snapshot is damaged or beyond the last update.
        """
        for path in self.weights:
            if wrong := not_a_file(Path(path)):
                raise InputError(f"weights {path}: {wrong}", hint="Give a .caffemodel of the net.")
        found = files.named_snapshot(Path(self.state)) if self.state else None
        if found and found.update >= updates:
            raise InputError(
                f"{found.state}: it was taken after {found.update} updates, but the solver's "
                f"max_iter is {updates}",
                hint=[
                    "max_iter counts the snapshot's updates too; ",
                    Option("weights"),
                    " starts from update 0.",
                ],
            )
        if found:
            try:
                files.check_contents(found.update, found.state, found.weights)
            except DamagedSnapshotError as damage:
                raise InputError(
                    f"the snapshot is not whole: {damage.message}", hint="Give an older one."
                ) from damage
        return found


def starting_point(
    weights: Sequence[Path], state: Path | None, before: JobRecord | None, *, has_snapshots: bool
) -> StartingPoint:
    """What a run starts from: what was asked for, or else what the earlier run started from.

    Args:
        weights: The .caffemodel files asked for.
        state: The solverstate asked for.
        before: The record of the earlier run.
        has_snapshots: Whether that run left any. If it didn't, and made no update, it hasn't begun.

    Raises:
        InputError: Both are asked for, or the earlier run started from something else.
    """
    if weights and state:
        raise InputError(
            [Option("weights"), " and ", Option("snapshot"), " exclude each other, as in Caffe"],
            hint="A snapshot brings its own weights.",
        )
    asked = StartingPoint(
        tuple(str(path.resolve()) for path in weights), str(state.resolve()) if state else None
    )
    if before is None or not before.attempts:
        return asked
    begun = StartingPoint(before.weights, before.initial_state)
    updated = any(attempt.last_update > attempt.first_update for attempt in before.attempts)
    if asked != StartingPoint() and not updated and not has_snapshots:
        return asked
    if asked not in (StartingPoint(), begun):
        raise InputError(
            "the run has already begun, and not from these",
            hint=[
                "Leave ",
                Option("weights"),
                " and ",
                Option("snapshot"),
                " out to continue it, or add ",
                Option("restart", True),
                ".",
            ],
        )
    return begun
