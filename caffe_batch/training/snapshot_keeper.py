"""What becomes of a run's snapshots while its worker speaks of them."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.engines.caffe.events import (
    Diverged,
    Finished,
    LogEvent,
    SnapshotTaken,
    Updated,
    WorkerEvent,
)
from caffe_batch.engines.caffe.snapshots import prune, set_aside_from, take_in


class SnapshotKeeper:
    """Records each snapshot, thins them out, and sets aside those of a training that diverged.

    The newest has proved itself once an update after it had a loss that is none of a divergence:
    only then those before it may go.

    Args:
        folder: Where the snapshots lie.
        keep_last, keep_every: As :func:`caffe_batch.engines.caffe.snapshots.prune` takes them.
    """

    def __init__(self, folder: Path, keep_last: int | None, keep_every: int | None) -> None:
        self._folder, self._keep = folder, (keep_last, keep_every)
        self._unproven: int | None = None

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of an event.

        Raises:
            DamagedSnapshotError: A snapshot that was just taken isn't whole.
        """
        if isinstance(event, SnapshotTaken):
            take_in(Path(event.state))
            self._unproven = event.update
        elif isinstance(event, Diverged):
            set_aside_from(self._folder, event.update)
        elif self._unproven is not None and (
            isinstance(event, Finished)
            or (isinstance(event, Updated) and event.update > self._unproven)
        ):
            self._unproven = None
            prune(self._folder, *self._keep)
