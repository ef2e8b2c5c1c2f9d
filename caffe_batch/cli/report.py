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
    help="Where to write the page.  [default: DIR/report.html; for several runs ./report.html]",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write each figure as PNG and SVG as well, there.",
)
@json_option
def report(
    directories: tuple[Path, ...], out: Path | None, figures: Path | None, as_json: bool
) -> None:
    """Write a page about one run, or about several over each other.

    The page is one file that needs no network: the curves of the loss, the tests, the learning
    rate and the effective batch against updates, samples or time, the plan and its audit, the
    memory by layer, the attempts and how they ended, and the environment. A run that goes on, or
    hasn't begun, can be reported as well. --json prints the curves instead of writing the page.
    """
    from caffe_batch.reporting.report_data import read_runs

    runs = read_runs(directories)
    if figures is not None:
        from caffe_batch.reporting.report_figures import write_figures

        try:
            drawn = write_figures(runs, figures)
        except ImportError as error:
            raise InputError(
                "--figures needs matplotlib", hint="pip install 'caffe-batch[plot]'"
            ) from error
        for picture in drawn:
            click.echo(f"drawn: {picture}", err=True)
    if as_json:
        print_json({"runs": [{**run.status.json(), "curves": run.curves()} for run in runs]})
        return
    from caffe_batch.files import write_text
    from caffe_batch.reporting.report_page import render_report

    page = out or (runs[0].job.report if len(runs) == 1 else Path("report.html"))
    write_text(page, render_report(runs))
    click.echo(page)
