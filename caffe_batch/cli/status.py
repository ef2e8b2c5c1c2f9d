"""``caffe-batch status`` and ``caffe-batch stop``: for a job that is trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import click

from caffe_batch.cli.options import console, json_option, print_json
from caffe_batch.terminal import one_line

job_argument = click.argument("directory", type=click.Path(), metavar="DIR")

#: Columns of a table that goes to a file or a pipe, which is as wide as its text.
_WIDEST = 10_000


@click.command()
@click.argument("directories", type=click.Path(), metavar="DIR...", nargs=-1, required=True)
@json_option
def status(directories: Sequence[str], as_json: bool) -> None:
    """Show the state of the training in DIR, or a table of several trainings.

    The state is planned, running, finished, interrupted, failed or killed. Killed means that
    neither its `train` nor its worker is running any more and that no file says why (a full disk
    has the same effect). `caffe-batch train DIR` continues from the newest snapshot.
    """
    from caffe_batch import api
    from caffe_batch.reporting.status_view import status_lines

    if len(directories) > 1:
        _print_several(directories, as_json)
        return
    job = api.Job(directories[0])
    now = job.status()
    if as_json:
        print_json(now.json())
        return
    for line in status_lines(job.directory, now):
        click.echo(line)


def _print_several(directories: Sequence[str], as_json: bool) -> None:
    """The states of several trainings, then the problems of those that can't be read."""
    from caffe_batch import api
    from caffe_batch.reporting.status_view import status_json, status_table

    found = api.standings(directories)
    if as_json:
        print_json(list(map(status_json, found)))
    else:
        screen = console()
        if not screen.is_terminal:
            screen.width = _WIDEST  # a program that reads it gets whole paths
        screen.print(status_table(found))
    wrong = [each.problem for each in found if each.problem is not None]
    for problem in wrong[:-1]:
        click.echo(one_line(f"caffe-batch: {problem.message}"), err=True)
    if wrong:
        raise wrong[-1]


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
