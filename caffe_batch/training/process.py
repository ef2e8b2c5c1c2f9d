"""A worker process: starts it, reads its events, signals it, and says why it ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import LogEvent, WorkerEvent, read_worker_line
from caffe_batch.engines.work import Work
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.runtimes.base import Runtime, WorkerPlaces
from caffe_batch.runtimes.container import EVENTS_DESCRIPTOR
from caffe_batch.runtimes.machine import cuda_environment

#: Signals that ask for a snapshot and an end (SIGUSR1: Slurm's warning before a time limit).
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

#: Seconds that a worker may take to end after it was asked to and its events are no longer read.
_GRACE_S = 10.0


class WorkerProcess:
    """One worker, in its own session and process group; all workers are started through this.

    Its stdout and stderr go straight to the log, so that the log is complete whatever happens to
    this process. Its events come through a pipe; when this end of it closes, even because this
    process dies, the worker takes a snapshot and stops.

    Args:
        runtime: Whose Python runs it.
        engine: Understands its log and its ending.
        work: What it should do.
        places: Returns the files that a runtime must be given, if it asks.
        log: The engine's log; it is appended to.
        working_directory: Where relative paths of the net start.
        keep_open: File descriptors that the worker inherits.

    Attributes:
        stop_requested: Whether it was asked to stop.
    """

    def __init__(
        self,
        runtime: Runtime,
        engine: Engine,
        work: Work,
        places: Callable[[], WorkerPlaces],
        *,
        log: Path,
        working_directory: Path,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.stop_requested = False
        self._killed = False
        self._part = b""
        self._last_word: WorkerEvent | None = None
        self._runtime, self._engine = runtime.for_worker(places), engine
        self._runtime.clear()  # what a killed supervisor may have left behind
        self._log = engine.open_log(log)
        self._events, written, inherited = _event_pipe(self._runtime.fifo)
        argument = json.dumps({**work.settings, "events": written})
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._runtime.command([str(work.script), argument]),
                    env={**self._runtime.environment(), **cuda_environment(), **work.environment},
                    cwd=working_directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(*inherited, *keep_open),
                    start_new_session=True,
                )
        except OSError:
            self._close()
            raise
        finally:
            for descriptor in inherited:
                os.close(descriptor)

    @property
    def pid(self) -> int:
        """Process id, which is also the number of its process group."""
        return self._process.pid

    @property
    def log_tail(self) -> Sequence[str]:
        """The last lines of the log, oldest first."""
        return tuple(self._log.tail)

    def listen(self, timeout_s: float) -> Iterator[WorkerEvent | LogEvent]:
        """Every event within the next ``timeout_s``, or until the worker closes its pipe.

        With 0, everything that has arrived. Otherwise this stops at the end of that time even if
        the worker sends more than can be handled, so that the caller gets its turn.
        """
        deadline = time.monotonic() + timeout_s
        while select.select([self._events], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._events, 1 << 16)
            if not chunk:
                # Closed: it is about to end, and from now on select would return at once.
                self._wait(timeout_s)
                break
            *lines, self._part = (self._part + chunk).split(b"\n")
            for line in lines:
                self._last_word = read_worker_line(line.decode("utf-8", errors="replace"))
                yield self._last_word
            if timeout_s and time.monotonic() > deadline:
                break
        yield from self._log.read()

    def running(self) -> bool:
        """Whether it hasn't ended yet."""
        return self._process.poll() is None

    @property
    def has_spoken(self) -> bool:
        """Whether it has sent an event."""
        return self._last_word is not None

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker's process group, if it is still running."""
        if self.running():
            with suppress(ProcessLookupError):  # it may have ended without our noticing yet
                os.killpg(self.pid, number)
            if number == signal.SIGKILL:
                self._runtime.clear()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to take a snapshot and stop; a SIGINT after that (a second Ctrl-C) kills it.

        A batch system that warns with one signal and ends the job with another leaves time between
        the two, so these don't kill it.
        """
        self._killed |= self.stop_requested and number == signal.SIGINT
        self.stop_requested = True
        self.send_signal(signal.SIGKILL if self._killed else number)

    def kill(self) -> None:
        """End it at once, without a snapshot."""
        self.send_signal(signal.SIGKILL)

    def ending(self) -> Ending:
        """Why it ended. Call it once the worker has ended and all its events have been read."""
        status = self._process.wait()
        if self._killed:
            return Ending(EndReason.INTERRUPTED, "killed immediately, on a second request", 0)
        if (
            self.stop_requested and self._last_word is None
        ):  # it died of the signal before it could handle it
            return Ending(
                EndReason.INTERRUPTED, f"stopped before {self._engine.title} was loaded", status
            )
        return self._engine.classify(status, self._last_word, self._log.tail)

    def end(self) -> None:
        """Make sure that it has ended, and release what it held."""
        self.send_signal(signal.SIGTERM)
        if not self._wait(_GRACE_S):
            self.send_signal(signal.SIGKILL)
            self._process.wait()
        self._runtime.clear()
        self._close()

    def _wait(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _close(self) -> None:
        os.close(self._events)
        if self._runtime.fifo is not None:
            self._runtime.fifo.unlink(missing_ok=True)
        self._log.close()


def _event_pipe(fifo: Path | None) -> tuple[int, int, tuple[int, ...]]:
    """A pipe for events: the end to read here, the worker's number of the other, what it inherits.

    A FIFO is opened before anything writes to it. select then reports it as readable once the first
    event has arrived, and as ended once the writer is gone.
    """
    if fifo is None:
        read_end, write_end = os.pipe()
        return read_end, write_end, (write_end,)
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    return os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), EVENTS_DESCRIPTOR, ()


class SignalRelay:
    """Passes requests to this process on to the current worker.

    A worker gets each request once, even if one thread handles it while another receives the
    signal. (The lock may also be taken by a handler that interrupts its own holder.)

    Attributes:
        stop_requested: Whether a stop was requested.
    """

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None
        self._lock = threading.RLock()
        self.stop_requested = False

    def attend(self, worker: WorkerProcess | None) -> None:
        """Set or clear the current worker; a stop that was requested earlier reaches it."""
        with self._lock:
            self._worker = worker
            if worker and self.stop_requested and not worker.stop_requested:
                worker.stop()

    def stop(self, number: int) -> None:
        """Ask the current worker to stop, or the next one if there is none."""
        with self._lock:
            self.stop_requested = True
            if self._worker:
                self._worker.stop(number)

    def snapshot(self, number: int) -> None:
        """Ask the worker for a snapshot, unless it hasn't sent an event yet.

        Before that it may not handle signals yet, and this one would kill it; and before its first
        update there already is a snapshot, or nothing to save.
        """
        if self._worker and self._worker.has_spoken:
            self._worker.send_signal(number)


@contextmanager
def forwarded_signals(relay: SignalRelay) -> Iterator[None]:
    """Pass signals that this process receives on to the worker's group and to nothing else."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may have handlers
        return

    def stop(number: int, frame: FrameType | None) -> None:
        relay.stop(number)

    def snapshot(number: int, frame: FrameType | None) -> None:
        relay.snapshot(number)

    handlers = {**dict.fromkeys(_STOP_SIGNALS, stop), signal.SIGHUP: snapshot}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
