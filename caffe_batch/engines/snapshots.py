"""Snapshots: what a training can continue from, and what may be asked of an engine about them.

For every engine a snapshot is a pair of files: ``NAME_iter_N.solverstate`` and ``.caffemodel``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from caffe_batch.errors import TrainingError


class DamagedSnapshotError(TrainingError):
    """A snapshot that a training can't, or must not, continue from. The message says why."""


@dataclass(frozen=True, order=True)
class Snapshot:
    """A pair of files that a training can continue from.

    Attributes:
        update: Updates done when it was taken (Caffe's iteration).
        state: The solverstate: counters and the solver's history.
        weights: The caffemodel.
    """

    update: int
    state: Path
    weights: Path

    @property
    def record(self) -> Path:
        """The file with sizes and checksums of both, written once they were found to be whole."""
        return self.state.with_name(f"{self.state.name}.json")

    @property
    def moment(self) -> Path:
        """The file with what its engine keeps beside Caffe's files, where it keeps anything."""
        return self.state.with_name(f"{self.state.name}.moment")

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        """All files that belong to it; without the first it doesn't count."""
        return self.state, self.weights, self.record, self.moment


class SnapshotFiles(Protocol):
    """The snapshots of an engine: which there are, which are whole, which to keep."""

    def list_snapshots(self, folder: Path) -> list[Snapshot]:
        """The snapshots in a folder that have both files, oldest first."""

    def named_snapshot(self, state: Path) -> Snapshot:
        """The snapshot whose solverstate the user has named.

        Raises:
            InputError: It is missing, not named as the engine names it, or its weights aren't
                beside it.
        """

    def check_contents(self, update: int, state: Path, weights: Path) -> None:
        """Check that both files parse and belong together.

        Args:
            update: Updates done, as the names of the files say.
            state: The solverstate.
            weights: The caffemodel.

        Raises:
            DamagedSnapshotError: They don't.
        """

    def newest_whole(
        self, folder: Path, last_update: int
    ) -> tuple[Snapshot | None, tuple[str, ...]]:
        """The newest snapshot that is whole; newer ones that aren't are set aside.

        Args:
            folder: Where they are.
            last_update: Later ones don't belong to the job, and are left alone.

        Returns:
            The snapshot or None, and a sentence about each one that was set aside.
        """

    def take_in(self, state: Path) -> None:
        """Record a snapshot that was just taken.

        Args:
            state: Its solverstate.

        Raises:
            DamagedSnapshotError: It isn't whole. It is set aside.
        """

    def set_aside_from(self, folder: Path, update: int) -> None:
        """Rename the snapshots of a diverged training, from this update on."""

    def prune(
        self,
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

    def finish_pruning(self, folder: Path) -> None:
        """Delete what :meth:`prune` had chosen but not deleted before it was cut short."""
