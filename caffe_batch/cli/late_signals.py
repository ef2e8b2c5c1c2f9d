"""Makes sure that a program that has run Caffe says how that ended, however late a signal comes."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any

import click

#: The signals that a training has handlers for while it runs.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class LateSignals:
    """Signal handlers around what a command runs on Caffe and the report of its result or failure.

    Before it is called for the first time, each signal acts as it would without it. Afterwards,
    whatever reaches these handlers (a training has its own while it runs) comes too late to save or
    to stop anything: signals are ignored, except that a second SIGINT ends the program.

    Raises:
        KeyboardInterrupt: In the body, for a second SIGINT that came late.
    """

    def __init__(self) -> None:
        self._late = self._interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> LateSignals:
        if threading.current_thread() is threading.main_thread():  # no other thread may set any
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            # What is ignored (by nohup) stays ignored, also in the processes that are started.
            self._before = {
                number: each for number, each in before.items() if each != signal.SIG_IGN
            }
            for number in self._before:
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

    def __call__(self, *_: object) -> None:
        """Note that the next thing to do with any signal is to report the result.

        A training calls it as an observer, since its own handlers take the signals until it ends.
        """
        self._late = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if self._late:
            if number == signal.SIGINT and self._interrupted:
                raise KeyboardInterrupt
            self._interrupted |= number == signal.SIGINT
        elif callable(before):
            before(number, frame)
        else:
            signal.signal(number, before)
            os.kill(os.getpid(), number)


def late_signals(ctx: click.Context) -> LateSignals:
    """Handlers that stay until the program has printed everything, its error message included."""
    until_the_end: ExitStack = ctx.find_root().obj
    return until_the_end.enter_context(LateSignals())
