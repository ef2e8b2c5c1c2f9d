"""``caffe-batch report``: one HTML page about one or more runs."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.options import json_option, print_json
from caffe_batch.errors import InputError


@click.command()
@click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR..."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Where to write the page.  [default: DIR/report.html, or ./report.html for several runs]",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write each figure to DIR, as PNG and SVG.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Write the page again every five seconds while a run continues; an open browser reloads "
    "it.",
)
@json_option
def report(
    directories: tuple[Path, ...],
    out: Path | None,
    figures: Path | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Write a page about one run, or one that compares several.

    The page is one file that needs no network. It shows the curves of the loss, the tests, the
    learning rate and the effective batch against updates, samples or time; the best scores; the
    plan and its audit; the solver's settings; the net, and the memory by layer; the snapshots; the
    attempts and how they ended; and the environment. Runs that are still going on, or haven't
    begun, can be reported too. --json prints the curves instead of writing the page.

    With --watch the last page is written when all runs have ended; Ctrl-C ends only the
    watching.
    """
    from caffe_batch import api

    if watch and (as_json or figures is not None):
        raise InputError(
            f"{'--json' if as_json else '--figures'}: --watch only writes the page",
            hint="Leave one of the two out.",
        )
    if watch:
        _watch(directories, out)
        return
    runs = api.read_runs(directories)
    if figures is not None:
        from caffe_batch.reporting.report_figures import write_figures

        try:
            drawn = write_figures(runs, figures)
        except ImportError as error:
            raise InputError(
                "--figures needs matplotlib", hint="pip install 'caffe-batch[plot]'"
            ) from error
        for picture in drawn:
            click.echo(f"wrote {picture}", err=True)
    if as_json:
        print_json({"runs": [{**run.status.json(), "curves": run.curves()} for run in runs]})
        return
    click.echo(api.report(directories, out=out, runs=runs))


def _watch(directories: tuple[Path, ...], out: Path | None) -> None:
    """Write the page until all runs have ended, and say where it is as soon as it exists."""
    from caffe_batch import api

    pages: set[Path] = set()

    def say(page: Path) -> None:
        if page not in pages:
            pages.add(page)
            click.echo(page)

    try:
        api.watched_report(directories, out=out, observer=say)
    except KeyboardInterrupt:
        click.echo("No longer watching; the page shows the state at the last look.", err=True)
