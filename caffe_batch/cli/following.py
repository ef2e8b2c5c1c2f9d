"""``caffe-batch train --follow``: watches a run through its files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from caffe_batch.terminal import one_line

if TYPE_CHECKING:
    from caffe_batch.api import Job


def follow(job: Job, *, quiet: bool) -> None:
    """Show a run until it ends, with the display and the exit code of ``train``.

    Raises:
        InputError: Nothing has been trained there yet.
        TrainingError: The run has failed, or was killed.
    """
    from caffe_batch.reporting.audit_view import audit_warnings
    from caffe_batch.reporting.console import LastingConsole
    from caffe_batch.reporting.outcome_view import outcome_lines
    from caffe_batch.reporting.training_view import TrainingView

    warnings = audit_warnings(job.plan.audit)
    view = TrainingView(LastingConsole(stderr=True), quiet=quiet, warnings=warnings)
    try:
        with view:
            status = job.follow(view)
    except KeyboardInterrupt:
        click.echo(f"No longer following; the run continues in {job.path}.", err=True)
        return
    update, updates = status.progress.update, status.progress.updates
    click.echo(f"{status.state.value.capitalize()}: {update:,} of {updates:,} updates.")
    finished = status.state.value == "finished"
    lines = outcome_lines(job.directory, status.progress.scores, job.snapshots, finished=finished)
    for line in lines:
        click.echo(one_line(line))
    if status.state.value == "interrupted":
        sys.exit(130)
