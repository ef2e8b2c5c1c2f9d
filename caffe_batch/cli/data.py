"""``caffe-batch data``: from pictures to a data set, and a look at one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from caffe_batch.cli.options import console, json_option, print_json, print_notes

if TYPE_CHECKING:
    from caffe_batch.datasets.conversion import Progress


class _CreateUnlessNamed(click.Group):
    """``data SOURCE ...`` is ``data create SOURCE ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_CreateUnlessNamed)
def data() -> None:
    """Make a data set of pictures, or look at one.

    `data SOURCE --out DIR` is short for `data create SOURCE --out DIR`.
    """


@data.command()
@click.argument("source", type=click.Path(readable=False))
@click.option("--out", type=click.Path(), required=True, metavar="DIR", help="The folder to make.")
@click.option(
    "--test",
    type=click.Path(),
    metavar="SOURCE",
    help="Where the test set is, like SOURCE.  [default: a share of each class]",
)
@click.option(
    "--test-share",
    default="20%",
    show_default=True,
    metavar="P%",
    help="The share of each class that becomes the test set; 0 makes none.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and the order.")
@click.option(
    "--resize",
    metavar="SIZE",
    help="Size of the records: 256, or 240x320 (height x width).  [default: the pictures' own]",
)
@click.option(
    "--fit",
    type=click.Choice(["squash", "crop", "pad"]),
    default="squash",
    show_default=True,
    help="When resizing, ignore the proportions (as convert_imageset does), cut off what is too "
    "long, or add black.",
)
@click.option(
    "--keep-sizes",
    is_flag=True,
    help="Keep pictures of different sizes; Caffe then needs a crop_size, or batch_size 1.",
)
@click.option("--gray", is_flag=True, help="Store one channel.  [default: three, in BGR order]")
@click.option("--encoded", is_flag=True, help="Store image files.  [default: pixels]")
@click.option(
    "--encode-type",
    type=click.Choice(["jpg", "png"]),
    help="Format of the image files.  [default: as they are; png for other formats]",
)
@click.option(
    "--shuffle/--no-shuffle",
    default=True,
    show_default=True,
    help="Mix the training records, or keep the order of the source.",
)
@click.option(
    "--root",
    type=click.Path(),
    metavar="DIR",
    help="Where the paths of lists begin.  [default: the list's folder]",
)
@click.option(
    "--labels",
    type=click.Path(),
    metavar="FILE",
    help="Names of all classes, one a line.  [default: the folders' names, or the labels]",
)
@click.option("--renumber", is_flag=True, help="Close the gaps between the labels of a list.")
@click.option("--allow-one-class", is_flag=True, help="Accept a source of one class.")
@click.option(
    "--drop-duplicates",
    is_flag=True,
    help="Leave out test pictures that the training set has as well.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that read pictures.  [default: one for each processor]",
)
@json_option
def create(source: str, out: str, as_json: bool, **options: Any) -> None:
    """Make a training and a test LMDB of the pictures of SOURCE.

    SOURCE is a folder with a folder for each class; a list with a line `path label` for each
    picture; a CSV file with columns path and label (and set, if there is one); or a folder with two
    sets, train and test (or val), as folders or as lists.

    DIR gets train_lmdb and test_lmdb, labels.txt, mean.binaryproto, classes.png and dataset.json,
    which describes them all. A call that was interrupted goes on when it is repeated.
    """
    from caffe_batch import api

    with _bar() as progress:
        made = api.data(source, out, progress=progress, **options)
    print_notes(made.notes)
    if as_json:
        print_json(made.json())
        return
    from caffe_batch.reporting.data_view import class_table, data_sentences

    screen = console()
    screen.print(class_table(made.dataset))
    for sentence in data_sentences(made):
        screen.print(sentence)


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on stderr, if that is a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from caffe_batch.reporting.console import PlainConsole

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    screen = PlainConsole(stderr=True)
    quiet = not screen.is_terminal
    with Progress(*columns, console=screen, transient=True, disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, files: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=files)
            bars.update(tasks[name], completed=done)

        yield show
