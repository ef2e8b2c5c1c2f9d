"""What happens to a run's snapshots as its worker reports them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from caffe_batch.engines.events import (
    Diverged,
    Finished,
    LogEvent,
    SnapshotTaken,
    Updated,
    WorkerEvent,
)
from caffe_batch.engines.snapshots import SnapshotFiles


class SnapshotKeeper:
    """Records each snapshot, thins them out, and sets aside those of a training that diverged.

    The newest has proved good once an update after it had a loss that hasn't diverged: only then
    may earlier ones be deleted, and the previous run that a restart has kept.

    Args:
        files: The engine's snapshots.
        folder: Where they are.
        keep_last, keep_every: As for :meth:`SnapshotFiles.prune`.
        proved: Called whenever the newest snapshot has proved good.
    """

    def __init__(
        self,
        files: SnapshotFiles,
        folder: Path,
        keep_last: int | None,
        keep_every: int | None,
        proved: Callable[[], None],
    ) -> None:
        self._files, self._folder, self._keep = files, folder, (keep_last, keep_every)
        self._proved = proved
        self._unproven: int | None = None

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of an event.

        Raises:
            DamagedSnapshotError: A snapshot that was just taken isn't whole.
        """
        if isinstance(event, SnapshotTaken):
            self._files.take_in(Path(event.state))
            self._unproven = event.update
        elif isinstance(event, Diverged):
            self._files.set_aside_from(self._folder, event.update)
        elif self._unproven is not None and (
            isinstance(event, Finished)
            or (isinstance(event, Updated) and event.update > self._unproven)
        ):
            self._unproven = None
            self._proved()
            self._files.prune(self._folder, *self._keep)
