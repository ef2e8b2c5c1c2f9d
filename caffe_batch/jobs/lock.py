"""The lock on a job directory: one ``train`` at a time, and a dead process never holds it.

The lock file has the process id of the supervisor, as that process sees it: in a container the
same number is another process, and a file from elsewhere may hold any number. So nobody is taken
for the supervisor by the number alone; it is one if it has the lock file open (:func:`has_open`).

A ``train`` holds it exclusively. A reader that asks whether one does holds it shared for a moment,
and some commands hold it exclusively for a moment (``briefly``): whoever finds it held by these
waits, however long they are kept from running, and takes none of them for a ``train``.

Nobody but the owner may read the file: a lock can be held by whoever can open it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from caffe_batch.errors import CaffeBatchError, InputError

#: How long to wait for the worker of a supervisor that was killed, in seconds.
ORPHAN_WAIT_S = 30.0

#: Stands in the file instead of a process id while the lock is held for a moment only.
_BRIEFLY = b"briefly"


#: A link isn't followed, and a pipe that has just taken the file's place isn't waited for.
_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class JobBusyError(CaffeBatchError, RuntimeError):
    """Another ``train`` runs in the directory. Exit code 1."""


@contextmanager
def held(file: Path, directory: Path, *, briefly: bool = False) -> Iterator[int]:
    """Hold a lock while this process lives.

    The worker inherits the yielded file descriptor, so a worker that outlives its supervisor for
    a moment still holds the lock. The next supervisor waits for such a worker, which takes a
    snapshot and exits.

    Args:
        file: The file to lock.
        directory: The directory that it protects, for messages.
        briefly: Whether this is no ``train``, but a moment in which none may begin.

    Raises:
        JobBusyError: Another supervisor holds it, or something else for too long: the worker of a
            dead one that doesn't exit, or a reader that was stopped.
        InputError: What stands in the lock's place is no file.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is no regular file, so no lock", hint="Remove it.")
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:  # of an earlier version
            os.fchmod(descriptor, 0o600)
        deadline = time.monotonic() + ORPHAN_WAIT_S
        while not _locked(descriptor, fcntl.LOCK_EX):
            only_read = _locked(descriptor, fcntl.LOCK_SH)  # what readers hold can be shared
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            owner = 0 if only_read else _owner(descriptor)
            if owner and has_open(owner, file) is not False:
                raise JobBusyError(
                    f"{directory}: another `caffe-batch train` runs here",
                    hint="Wait for it or stop it.",
                )
            if time.monotonic() > deadline and only_read:
                raise JobBusyError(
                    f"{directory}: a `caffe-batch status` or another reader has held it for "
                    f"{ORPHAN_WAIT_S:.0f} s",
                    hint="It may be a stopped process: let it continue, or end it.",
                )
            if time.monotonic() > deadline:
                raise JobBusyError(
                    f"{directory}: still held after {ORPHAN_WAIT_S:.0f} s, by the worker of a "
                    "`caffe-batch train` that was killed or by a `train` in a container",
                    hint="A worker exits after a snapshot; its process id is in job.json.",
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _BRIEFLY if briefly else f"{os.getpid()}\n".encode("ascii"), 0)
        try:
            yield descriptor
        finally:
            if briefly:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(file: Path) -> int | None:
    """Process id of the supervisor that holds a lock, or None if none does.

    A process that no longer exists has left a worker behind, which is about to exit. 0 while the
    holder hasn't yet written its id. None also while it is held briefly, and for what is no file.
    """
    if not file.is_file():
        return None
    try:
        descriptor = os.open(file, os.O_RDONLY | _SAFELY)
    except FileNotFoundError:
        return None
    except PermissionError:  # of another user
        return _owner_by_kernel(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        briefly = os.pread(descriptor, 32, 0) == _BRIEFLY
        return None if briefly else _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _locked(descriptor: int, kind: int) -> bool:
    """Whether the lock could be taken at once, as LOCK_EX or LOCK_SH."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(descriptor: int) -> int:
    """The process id that the supervisor wrote into the lock; 0 while it hasn't yet."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _owner_by_kernel(file: Path) -> int | None:
    """The process that took a lock, as the kernel lists it for everybody (proc(5), locks)."""
    try:
        inode = file.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for fields in map(str.split, lines):
        if fields[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def has_open(pid: int, file: Path) -> bool | None:
    """Whether a process of this machine, as seen from here, has a file open; None if unknown."""
    wanted = file.stat()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return False
    except PermissionError:
        return None
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat(wanted, os.stat(f"/proc/{pid}/fd/{descriptor}")):
                return True
    return False


def signal_holder(pid: int, file: Path, number: int) -> bool:
    """Send a signal to a process if it has the lock file open, and to no other.

    Args:
        pid: The process id that the lock names.
        file: The lock file.
        number: The signal.

    Returns:
        Whether it was sent.
    """
    try:
        process = os.pidfd_open(pid)  # from here on the number can't go to another process
    except OSError:
        return False
    try:
        if not has_open(pid, file):
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True
