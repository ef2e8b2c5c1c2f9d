"""Decides when a silent worker is considered hung."""

from __future__ import annotations

import time
from collections.abc import Callable

from caffe_batch.jobs.ending import Ending, EndReason

#: Seconds that a worker may be silent if it has never been silent for long.
LEAST_TIMEOUT_S = 600.0

#: Otherwise, this many times its longest silence.
PATIENCE = 20.0

#: Seconds after which a hung worker that was asked to stop is killed.
GRACE_S = 30.0

#: The most that the time between two looks counts: this process may have been suspended.
MOST_COUNTED_S = 2.0


class StallWatch:
    """Measures how long a worker has been silent, and says when to stop it.

    A worker reports at least once a second while it trains or tests: after each micro-batch and at
    each layer of a test. It is silent while it builds the nets and writes a snapshot.

    Args:
        timeout_s: The silence during training that counts as a stall. If None, and always while
            the nets are built: ``LEAST_TIMEOUT_S``, or ``PATIENCE`` times the longest silence so
            far if that is more.
        clock: Returns seconds; for tests.

    Attributes:
        silent_s: Seconds without a sign of it.
        is_hung: Whether it was asked to stop and didn't.
    """

    def __init__(
        self, timeout_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._given, self._clock = timeout_s, clock
        self._built = False
        self._looked = clock()
        self._longest = 0.0
        self._asked_after: float | None = None
        self.silent_s, self.is_hung = 0.0, False

    @property
    def timeout_s(self) -> float:
        """The silence that counts as a stall, in seconds."""
        if self._given is not None and self._built:
            return self._given
        return max(LEAST_TIMEOUT_S, PATIENCE * self._longest)

    def begin(self) -> None:
        """The nets are built: from now on a given timeout counts."""
        self._built = True

    def look(self, *, spoke: bool) -> bool:
        """Take in one look at the worker.

        Args:
            spoke: Whether it has sent or logged anything since the last look.

        Returns:
            Whether to ask it to stop now; or to kill it, some seconds later, if it ``is_hung``.
        """
        now = self._clock()
        self.silent_s += min(now - self._looked, MOST_COUNTED_S)
        self._looked = now
        if spoke:
            self._longest, self.silent_s = max(self._longest, self.silent_s), 0.0
        if self._asked_after is None:
            if self.silent_s <= self.timeout_s:
                return False
            self._asked_after = self.silent_s
            return True
        self.is_hung = self.silent_s > self._asked_after + GRACE_S
        return self.is_hung

    def judge(self, ending: Ending) -> Ending:
        """The ending of the worker, which is a stall if it was asked to stop for that reason."""
        if self._asked_after is None or ending.reason is EndReason.FINISHED:
            return ending
        then = "it did not, and was killed" if self.is_hung else ending.detail
        detail = f"silent for {self._asked_after:.0f} s, then asked to stop: {then}"
        return Ending(EndReason.STALLED, detail, ending.status)
