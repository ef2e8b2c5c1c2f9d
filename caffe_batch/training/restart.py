"""A restart on trial: which run belongs to the job, the previous one or the new one.

``--restart`` keeps the previous run (:class:`~caffe_batch.jobs.previous.PreviousRun`) until the new
run has finished or has a snapshot that is whole. The next update proves a snapshot good; the
previous run is removed then, or at the end of the new run, and put back if that ends without a
snapshot. If the process was killed, any command that looks at the job decides the same from its
files.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path

from caffe_batch import engines
from caffe_batch.engines.snapshots import DamagedSnapshotError
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.training.options import Options


def begin(job: JobDirectory, options: Options) -> Options:
    """Set the previous run aside, or remove it if it has done nothing; the lock is held.

    Returns:
        The options, with the present paths of the files that the run begins with: they may
        belong to the previous run.
    """
    asked = [path for path in (*options.weights, options.snapshot) if path]
    worth_keeping = stands(job) or _has_updated(_record(job))
    job.previous.set_aside()
    weights = tuple(job.previous.place_now(path) for path in options.weights)
    snapshot = job.previous.place_now(options.snapshot) if options.snapshot else None
    if not worth_keeping and asked == [*weights, *([snapshot] if snapshot else [])]:
        job.previous.forget()
    return replace(options, weights=weights, snapshot=snapshot)


def settle(job: JobDirectory) -> tuple[str, ...]:
    """Decide which run belongs to the job once none is running; the lock is held.

    Returns:
        A sentence if it is the previous run.
    """
    job.finish_rewrite()
    previous = job.previous
    previous.finish_moving()
    if not previous.is_kept or stands(job):
        previous.forget()
        return ()
    previous.put_back()
    record = _record(job)
    done = f", {record.updates_done:,} of {record.updates:,} updates" if record else ""
    return (
        f"The restart made no snapshot, so the previous run is back{done}. What the restart "
        f"left is in {previous.failed}; another restart begins from scratch.",
    )


def settle_if_free(job: JobDirectory) -> None:
    """The same for readers: not while a run is under way, or in a read-only directory."""
    previous = job.previous
    if (previous.is_kept or previous.is_unfinished) and job.supervisor() is None:
        with suppress(JobBusyError, OSError), job.lock(briefly=True):
            settle(job)


def stands(job: JobDirectory) -> bool:
    """Whether the run whose results are in the directory has finished, or can continue."""
    record = _record(job)
    if record and record.state is JobState.FINISHED:
        return True
    files = engines.find(job.read_plan().engine).snapshots
    for snapshot in reversed(files.list_snapshots(job.snapshots)):
        with suppress(DamagedSnapshotError, OSError):
            files.check_contents(snapshot.update, snapshot.state, snapshot.weights)
            return True
    return False


class Next(Enum):
    """What happens if a run that has just ended is run again; the value is a sentence."""

    CONTINUES = "It continues from the newest snapshot that is whole."
    BEGINS = "It left no snapshot, so it begins at update 0."
    RUN_BEFORE = "Without --restart, the previous run continues."


def what_is_next(job: JobDirectory) -> Next:
    """What happens if the run that has just ended is run again; the lock is held."""
    if stands(job):
        return Next.CONTINUES
    return Next.RUN_BEFORE if job.previous.is_kept else Next.BEGINS


def log_to_show(job: JobDirectory) -> Path:
    """Where the log of the run that has just ended will be."""
    undone = what_is_next(job) is Next.RUN_BEFORE
    return job.previous.failed / job.log.name if undone else job.log


def _record(job: JobDirectory) -> JobRecord | None:
    try:
        return job.read_record()
    except InputError:
        return None


def _has_updated(record: JobRecord | None) -> bool:
    attempts = record.attempts if record else ()
    return any(attempt.last_update > attempt.first_update for attempt in attempts)
