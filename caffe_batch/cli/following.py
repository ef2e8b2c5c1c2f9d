"""``caffe-batch train --follow``: looks on at a run through its files."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from caffe_batch.errors import InputError, TrainingError

if TYPE_CHECKING:
    from caffe_batch.training import JobDirectory
    from caffe_batch.training.following import Status

#: Seconds between two looks.
_INTERVAL_S = 0.5


def follow(job: JobDirectory, *, quiet: bool) -> None:
    """Show a run until it ends, with the display and the exit code of ``train``.

    Raises:
        InputError: Nothing was trained there so far.
        TrainingError: The run has failed, or was killed.
    """
    from caffe_batch.reporting.outcome_view import outcome_lines
    from caffe_batch.training.following import RunState

    try:
        status = _watch(job, quiet=quiet)
    except KeyboardInterrupt:
        click.echo(f"No longer following; the run goes on in {job.path}.", err=True)
        return
    update, updates = status.progress.update, status.progress.updates
    attempt = status.attempt
    if status.state is RunState.KILLED:
        raise TrainingError(
            f"the run in {job.path} was killed at update {update} of {updates}, or could not write "
            "its end to the disk",
            hint=f"caffe-batch train {job.path} goes on from its newest snapshot.",
        )
    if status.state is RunState.FAILED:
        why = f"{attempt.ending}: {attempt.detail}" if attempt else "it did not begin"
        raise TrainingError(f"Caffe stopped at update {update} of {updates}: {why}")
    click.echo(f"{status.state.value.capitalize()}: {update:,} of {updates:,} updates.")
    for line in outcome_lines(job, status.progress.scores):
        click.echo(line)
    if status.state is RunState.INTERRUPTED:
        sys.exit(130)


def _watch(job: JobDirectory, *, quiet: bool) -> Status:
    """The status of a run that has ended, shown up to there."""
    from caffe_batch.reporting.audit_view import audit_warnings
    from caffe_batch.reporting.training_view import LastingConsole, TrainingView
    from caffe_batch.training.following import RunFollower, RunState

    warnings = audit_warnings(job.read_plan().audit)
    view = TrainingView(LastingConsole(stderr=True), quiet=quiet, warnings=warnings)
    with closing(RunFollower(job)) as follower:
        status = follower.status()
        if status.state is RunState.PLANNED:
            raise InputError(
                f"{job.path}: nothing was trained here so far",
                hint=f"caffe-batch train {job.path} --detach starts it.",
            )
        with view:
            view(status.progress)
            while status.state is RunState.RUNNING:
                time.sleep(_INTERVAL_S)
                status = follower.status()
                view(status.progress)
    return status
