"""Processes that make records, in the order of the files.

Each is a Python of its own with pickles on its stdin and stdout, fed by a thread. A file at which
such a process dies is named as damaged, and another process goes on with the rest.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from caffe_batch.datasets.records import Batch, Record, make_batch
from caffe_batch.datasets.settings import Settings

Files = Sequence[tuple[Path, int]]

#: Batches that wait for a process, or for their turn, for each process.
_AHEAD = 6

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; import caffe_batch.datasets.workers as w; w.serve()"
)


def batches(work: Iterable[Files], settings: Settings, processes: int) -> Iterator[Batch]:
    """The batch of each group of files, in their order.

    Args:
        work: The groups, each of at most ``records.BATCH`` files with their labels.
        settings: How pictures become records.
        processes: How many make them; 0 makes them in this one.
    """
    if not processes:
        for files in work:
            yield make_batch(files, settings)
        return
    workers = [_Worker(settings) for _ in range(processes)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def make(files: Files) -> Batch:
        worker = idle.get()
        try:
            return worker.make(files)
        finally:
            idle.put(worker)

    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(processes)
    try:
        for files in work:
            waiting.append(pool.submit(make, files))
            if len(waiting) >= processes * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()
        pool.shutdown()
        for worker in workers:  # one may have been started in between
            worker.end()


class _Worker:
    """A process that makes records, started when it is first needed and whenever it has died."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def make(self, files: Files) -> Batch:
        """The batch of some files."""
        batch = self._ask(files)
        if batch is not None:
            return batch
        if len(files) == 1:
            return Batch([Record(problem="damaged (its decoder crashes)")])
        alone = [self.make([file]) for file in files]
        return _joined(alone)

    def _ask(self, files: Files) -> Batch | None:
        """What the process answers; None if it dies."""
        if self._ended:
            return Batch()  # nobody waits for it
        process = self._running()
        try:
            pickle.dump(files, _pipe(process.stdin))
            _pipe(process.stdin).flush()
            batch: Batch = pickle.load(_pipe(process.stdout))  # noqa: S301  # our child's
            return batch
        except (OSError, EOFError, pickle.UnpicklingError):
            self._process = None
            _reap(process)
            return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, *filter(None, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders write about damaged files
                start_new_session=True,  # Ctrl-C is for the parent, which ends it
            )
            pickle.dump(self._settings, _pipe(self._process.stdin))
        return self._process

    def end(self) -> None:
        """End the process."""
        self._ended = True
        if self._process is not None:
            _reap(self._process)


def _pipe(stream: IO[bytes] | None) -> Any:
    """A pipe that was asked for."""
    return stream


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError, ValueError):
            _pipe(stream).close()


def _joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several."""
    import numpy as np

    joined = Batch([record for part in parts for record in part.records])
    whole = [part for part in parts if part.channels]
    if whole:
        joined.channels = tuple(map(sum, zip(*(part.channels for part in whole), strict=True)))
        joined.pixels = sum(part.pixels for part in whole)
        totals = [part.total for part in whole if part.total is not None]
        if len({total.shape for total in totals}) == 1:
            joined.total = np.sum(totals, axis=0, dtype=np.uint16)
    return joined


def serve() -> None:
    """Make records until nobody asks any more, in the process that a worker starts."""
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    settings = pickle.load(questions)  # noqa: S301  # our parent's
    with suppress(EOFError, BrokenPipeError):
        while True:
            files = pickle.load(questions)  # noqa: S301
            pickle.dump(make_batch(files, settings), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
