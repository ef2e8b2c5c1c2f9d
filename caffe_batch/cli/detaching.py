"""``caffe-batch train --detach``: the training outlives the terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from caffe_batch.training import JobDirectory

#: Seconds to wait for the background process to start Caffe.
_START_TIMEOUT_S = 30.0


def detach(job: JobDirectory) -> None:
    """Go on in a background process; the calling process prints how to reach it, and exits.

    The background process has a session of its own and no terminal; its output goes to train.log.
    If it ends before Caffe has started, the calling process prints that output and ends with the
    same exit code.

    Raises:
        JobBusyError: The job is being trained already.
    """
    with job.lock(briefly=True):
        pass  # train.log belongs to whoever holds the lock
    sys.stdout.flush()
    sys.stderr.flush()
    before = _begun(job)
    size = job.console.stat().st_size if job.console.exists() else 0
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _redirect(job)
        return
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and not (
        job.supervisor() == pid and _begun(job) not in (None, before)
    ):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with job.console.open(encoding="utf-8", errors="replace") as output:
                output.seek(size)
                click.echo(output.read(), nl=False, err=True)
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    where = job.path
    click.echo(
        f"Training in the background, process {pid}.\n"
        f"Follow it: caffe-batch train --follow {where}\n"
        f"Stop it:   caffe-batch stop {where}\n"
        f"Output:    {job.console}"
    )
    sys.exit(0)


def _begun(job: JobDirectory) -> tuple[str, int] | None:
    """When the last worker began and its process id, if it got as far as starting Caffe."""
    record = job.read_record()
    last = record.attempts[-1] if record and record.attempts else None
    return (last.started, last.pid) if last and last.device is not None else None


def _redirect(job: JobDirectory) -> None:
    """Redirect this process's input to /dev/null and its output to train.log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(job.console, flags, 0o644)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
