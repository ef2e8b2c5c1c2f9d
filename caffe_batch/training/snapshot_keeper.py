"""What happens to a run's snapshots as its worker reports them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from caffe_batch.engines.events import (
    Diverged,
    Finished,
    LogEvent,
    NetTestOutput,
    NetTestStarted,
    SnapshotTaken,
    Updated,
    WorkerEvent,
)
from caffe_batch.engines.snapshots import SnapshotFiles
from caffe_batch.jobs.best import Metric, better
from caffe_batch.jobs.metrics import Metrics, NetTestMetrics


class BestTest:
    """The best test so far, whose snapshot is kept.

    Args:
        metric: The metric that decides.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._best: NetTestMetrics | None = None
        self._known = 0  # updates at the newest test whose score is known
        self._test = NetTestStarted(0, 0)

    def continue_from(self, lines: Iterable[Metrics], updates: set[int]) -> None:
        """Take in the earlier tests whose snapshots still exist.

        Args:
            lines: The lines of metrics.jsonl.
            updates: The updates of the snapshots.
        """
        for line in lines:
            if isinstance(line, NetTestMetrics) and line.update in updates:
                self._take_in(line)

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of an event."""
        if isinstance(event, NetTestStarted):
            self._test = event
        elif isinstance(event, NetTestOutput) and self._test.update:
            test = self._test
            self._take_in(
                NetTestMetrics(
                    test.update, test.net, event.index, event.name, event.value, event.is_loss, 0.0
                )
            )

    def _take_in(self, score: NetTestMetrics) -> None:
        if not self._metric.fits(score):
            return
        best = self._best
        if best is not None and self._metric.test_net is None and best.test_net != score.test_net:
            return
        self._known = max(self._known, score.update)
        if better(score, best):
            self._best = score

    def stays(self, update: int) -> bool:
        """Whether the snapshot after some updates is the best, or isn't tested yet."""
        return update > self._known or (self._best is not None and update == self._best.update)


class SnapshotKeeper:
    """Records each snapshot, thins them out, and sets aside those of a training that diverged.

    The newest has proved good once a later update had a loss that hasn't diverged. Only then may
    earlier ones be deleted, and the previous run that a restart has kept.

    Args:
        files: The engine's snapshots.
        folder: Where they are.
        keep_last, keep_every: As for :meth:`SnapshotFiles.prune`.
        proved: Called whenever the newest snapshot has proved good.
        best: The best test, whose snapshot is kept too; None to keep none.
    """

    def __init__(
        self,
        files: SnapshotFiles,
        folder: Path,
        keep_last: int | None,
        keep_every: int | None,
        proved: Callable[[], None],
        best: BestTest | None = None,
    ) -> None:
        self._files, self._folder, self._keep = files, folder, (keep_last, keep_every)
        self._proved, self._best = proved, best
        if best is not None and keep_last is None:
            self._keep = (1, keep_every)
        self._unproven: int | None = None

    def handle(self, event: WorkerEvent | LogEvent) -> None:
        """Take note of an event.

        Raises:
            DamagedSnapshotError: A snapshot that was just taken isn't whole.
        """
        if self._best is not None:
            self._best.handle(event)
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
            self.prune()

    def prune(self) -> None:
        """Delete the snapshots that need not be kept, unless the newest one is still unproven."""
        if self._unproven is None:
            stays = None if self._best is None else self._best.stays
            self._files.prune(self._folder, *self._keep, stays)
