"""What signals ask of a worker.

SIGINT, SIGTERM, SIGUSR1: take a snapshot and end. SIGHUP: take a snapshot and go on.
"""

from __future__ import annotations

import signal
from types import FrameType


class Requests:
    """What signals have asked for.

    Attributes:
        pending: Whether a request for a snapshot hasn't been answered yet.
        stop: Whether to stop after it.
    """

    def __init__(self) -> None:
        self.pending = self.stop = False

    def listen(self) -> None:
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_snapshot)

    def ask_to_stop(self) -> None:
        """As a signal does."""
        self.stop = self.pending = True

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.ask_to_stop()

    def _on_snapshot(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
