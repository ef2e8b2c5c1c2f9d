"""``caffe-batch status`` and ``caffe-batch stop``: for a job that this terminal doesn't train."""

from __future__ import annotations

import click

from caffe_batch.cli.options import json_option, print_json

job_argument = click.argument("directory", type=click.Path(), metavar="DIR")


@click.command()
@job_argument
@json_option
def status(directory: str, as_json: bool) -> None:
    """Show the state of the training in DIR.

    The state is planned, running, finished, interrupted, failed or killed. Killed means that
    neither its `train` nor its worker is running any more, and no file says why (a full disk has
    the same effect). `caffe-batch train DIR` continues from the newest snapshot.
    """
    from caffe_batch import api
    from caffe_batch.reporting.status_view import status_lines

    job = api.Job(directory)
    now = job.status()
    if as_json:
        print_json(now.json())
        return
    for line in status_lines(job.directory, now):
        click.echo(line)


@click.command()
@job_argument
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the current update to end and for the snapshot.",
)
def stop(directory: str, timeout: float) -> None:
    """Stop the training in DIR as Ctrl-C does: it takes a snapshot and ends.

    `caffe-batch train DIR` continues from there. A second `stop` ends the training at once, like a
    second Ctrl-C.
    """
    from caffe_batch import api

    stopped = api.Job(directory).stop(
        timeout=timeout, observer=lambda sentence: click.echo(sentence, err=True)
    )
    click.echo(f"Stopped after update {stopped.progress.update:,}.")
