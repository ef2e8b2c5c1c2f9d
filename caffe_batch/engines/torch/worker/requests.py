"""What signals ask of a worker.

SIGINT, SIGTERM, SIGUSR1: take a snapshot and end. SIGHUP: take a snapshot and go on.
"""

from __future__ import annotations

import signal
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

#: All that are handled.
SIGNALS = (*_STOPS, signal.SIGHUP)


class Requests:
    """What signals have asked for.

    Attributes:
        pending: Whether a request for a snapshot hasn't been answered yet.
        stop: Whether to stop after it.
    """

    def __init__(self) -> None:
        self.pending = self.stop = False

    def listen(self) -> None:
        """Install the handlers. What came while the signals were blocked is handled now."""
        for number in _STOPS:
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_snapshot)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def take(self) -> bool:
        """Whether a request is pending; it counts as answered."""
        if not self.pending:
            return False
        self.pending = False
        return True

    def ask_to_stop(self) -> None:
        """As a signal does."""
        self.stop = self.pending = True

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.ask_to_stop()

    def _on_snapshot(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
