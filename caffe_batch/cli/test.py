"""``caffe-batch test``: a trained net on its whole test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.job_options import computing_options, snapshot_options
from caffe_batch.cli.options import (
    Command,
    console,
    json_option,
    output_section,
    print_json,
    print_notes,
    section,
)

_data = section("Data")
_answers = section("Answers")


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch test job --page test.html", "The newest snapshot, with a page"),
        ("caffe-batch test job --best --data digits-data", "The best one, on other data"),
    ],
)
@click.argument("job", type=click.Path())
@_data(
    "--data",
    type=click.Path(readable=False),
    metavar="DIR",
    help="A data set made by `caffe-batch data` (its test set), a database or a list.  [default: "
    "what "
    "the TEST net reads]",
)
@_data(
    "--test-net",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="The number of the test net.",
)
@_answers(
    "--top",
    "top_k",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 5),
    show_default=True,
    metavar="K",
    help="Count how often the correct class is among the K highest scores; may be repeated.",
)
@_answers(
    "--worst",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    metavar="N",
    help="How many of the worst mistakes to keep.",
)
@output_section(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write a page with the scores, the confusion matrix and the worst mistakes.",
)
@output_section(
    "--confusion",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Draw the confusion matrix.",
)
@json_option
@snapshot_options
@computing_options
def test(
    job: str, as_json: bool, page: Path | None, confusion: Path | None, **options: Any
) -> None:
    """Test the net that JOB has trained on the whole test set.

    Shows the outputs of the TEST net, the accuracy by class and for the top K, and which classes
    are confused; for a segmentation also the overlap. --json adds the confusion matrix
    and the worst mistakes. Nothing in JOB is changed.
    """
    from rich.progress import Progress

    from caffe_batch import api
    from caffe_batch.reporting.console import PlainConsole
    from caffe_batch.reporting.net_test_view import confusions, facts, score_table

    quiet = PlainConsole(stderr=True)
    bar = Progress(console=quiet, transient=True, disable=not quiet.is_terminal)
    with bar:
        task = bar.add_task("testing", total=None)
        found = api.test(job, **options, observer=lambda passes: bar.update(task, completed=passes))
    print_notes(found.notes)
    for path, write in ((page, found.page), (confusion, found.draw)):
        if path is not None:
            write(path)
            click.echo(f"wrote {path}", err=True)
    if as_json:
        print_json(found.json())
        return
    screen = console()
    for title, text in facts(found, found.chosen, found.data):
        screen.print(f"{title:<16}{text}", soft_wrap=True)
    if found.judged is not None:
        screen.print()
        screen.print(score_table(found.judged))
        for sentence in confusions(found.judged):
            screen.print(sentence, soft_wrap=True)
