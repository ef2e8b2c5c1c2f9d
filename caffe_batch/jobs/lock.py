"""The lock on a job directory: one ``train`` at a time, and a dead process never holds it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caffe_batch.errors import CaffeBatchError

#: How long to wait for the worker of a supervisor that was killed, in seconds.
ORPHAN_WAIT_S = 30.0


class JobBusyError(CaffeBatchError, RuntimeError):
    """Another ``train`` runs in the directory. Exit code 1."""


@contextmanager
def held(file: Path, directory: Path) -> Iterator[int]:
    """Hold a lock while this process lives.

    The worker inherits the yielded file descriptor, so a worker that outlives its supervisor for
    a moment still holds the lock. The next supervisor waits for such a worker, which takes a
    snapshot and exits.

    Args:
        file: The file to lock.
        directory: The directory that it protects, for messages.

    Raises:
        JobBusyError: Another supervisor holds it, or the worker of a dead one doesn't exit.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + ORPHAN_WAIT_S
        while not _locked(descriptor):
            owner = _owner(descriptor)
            if not owner or is_alive(owner):
                raise JobBusyError(
                    f"{directory}: another `caffe-batch train` runs here",
                    hint="Wait for it or stop it.",
                )
            if time.monotonic() > deadline:
                raise JobBusyError(
                    f"{directory}: the worker of a `caffe-batch train` that was killed has not "
                    f"ended within {ORPHAN_WAIT_S:.0f} s",
                    hint="It exits after a snapshot. Its process id is in job.json.",
                )
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def holder(file: Path) -> int | None:
    """Process id of the supervisor that holds a lock, or None if none does.

    A process that no longer exists has left a worker behind, which is about to exit. 0 while the
    holder hasn't yet written its id.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _locked(descriptor: int) -> bool:
    """Whether the lock was free; tried again, since :func:`holder` takes it for an instant."""
    for _ in range(3):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _owner(descriptor: int) -> int:
    """The process id that the supervisor wrote into the lock; 0 while it hasn't yet."""
    return int(os.pread(descriptor, 32, 0) or b"0")


def is_alive(pid: int) -> bool:
    """Whether the process exists; a zombie counts as dead."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
