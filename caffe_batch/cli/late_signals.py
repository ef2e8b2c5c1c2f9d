"""Makes sure that a program that has trained reports its result, even if a signal arrives late."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_batch.training.progress import Progress

#: The signals that a training has handlers for while it runs.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class LateSignals:
    """Signal handlers around a training, the plot of its loss and the report of its result.

    It is an observer of the training. Before its first call, each signal acts as it would without
    it. After the training there is nothing left to save or to stop: signals are ignored, except
    that a second SIGINT ends the program.

    Raises:
        KeyboardInterrupt: In the body, for a second SIGINT after the training.
    """

    def __init__(self) -> None:
        self._trains = self._interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> LateSignals:
        if threading.current_thread() is threading.main_thread():  # no other thread may set any
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            for number in _SIGNALS:
                signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, progress: Progress) -> None:
        """Note that the training runs: a signal that reaches this handler later came after it."""
        self._trains = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if self._trains:
            if number == signal.SIGINT and self._interrupted:
                raise KeyboardInterrupt
            self._interrupted |= number == signal.SIGINT
        elif callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, before)
            os.kill(os.getpid(), number)
