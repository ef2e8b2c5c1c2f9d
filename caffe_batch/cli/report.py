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
@json_option
def report(
    directories: tuple[Path, ...], out: Path | None, figures: Path | None, as_json: bool
) -> None:
    """Write a page about one run, or one that compares several.

    The page is one file that needs no network. It shows the curves of the loss, the tests, the
    learning rate and the effective batch against updates, samples or time; the plan and its audit;
    the memory by layer; the attempts and how they ended; and the environment. A run that is still
    going on, or hasn't begun, can be reported as well. --json prints the curves instead of writing
    the page.
    """
    from caffe_batch import api

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
