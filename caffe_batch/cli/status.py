"""``caffe-batch status`` and ``caffe-batch stop``: a job that this terminal doesn't train."""

from __future__ import annotations

import os
import platform
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import json_option, print_json
from caffe_batch.errors import InputError, TrainingError

if TYPE_CHECKING:
    from caffe_batch.training import JobDirectory
    from caffe_batch.training.following import Status

job_argument = click.argument("directory", type=click.Path(), metavar="DIR")


@click.command()
@job_argument
@json_option
def status(directory: str, as_json: bool) -> None:
    """Say where the training in DIR stands.

    The state is planned, running, finished, interrupted, failed, or killed: then neither its
    `train` nor its worker is there any more, and nothing says why (a full disk does the same).
    `caffe-batch train DIR` goes on from the newest snapshot.
    """
    from caffe_batch.reporting.status_view import status_lines
    from caffe_batch.training import JobDirectory

    job = JobDirectory(directory)
    now = _status(job)
    if as_json:
        print_json(now.json())
        return
    for line in status_lines(job, now):
        click.echo(line)


@click.command()
@job_argument
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the end of its update and for its snapshot.",
)
def stop(directory: str, timeout: float) -> None:
    """Stop the training in DIR as Ctrl-C does: it takes a snapshot and ends.

    `caffe-batch train DIR` goes on from there. A second `stop` ends it at once, as a second Ctrl-C.
    """
    from caffe_batch.jobs.lock import is_alive
    from caffe_batch.training import JobDirectory

    job = JobDirectory(directory)
    now = _status(job)
    if now.pid is None:
        raise InputError(
            f"{job.path}: nothing runs here, the job is {now.state.value}",
            hint=f"caffe-batch status {directory} says more.",
        )
    host = now.record.host if now.record else platform.node()
    if host != platform.node():
        raise InputError(f"{job.path}: it runs on {host}", hint=f"Stop it from {host}.")
    if is_alive(now.pid):
        os.kill(now.pid, signal.SIGINT)
        hint = "`caffe-batch stop` again kills the worker at once, and the newest snapshot stands."
    else:
        click.echo("Its supervisor is gone already; waiting for the worker.", err=True)
        worker = now.attempt.pid if now.attempt else "PID"
        hint = f"`kill -9 {worker}` ends the worker, and the newest snapshot stands."
    deadline = time.monotonic() + timeout
    while job.supervisor() is not None:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"{job.path}: it still runs after {timeout:g} s",
                hint=hint,
            )
        time.sleep(0.05)
    click.echo(f"Stopped after update {_status(job).progress.update:,}.")


def _status(job: JobDirectory) -> Status:
    from caffe_batch.training.following import RunFollower

    with closing(RunFollower(job)) as follower:
        return follower.status()
