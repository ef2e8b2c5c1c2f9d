"""``caffe-batch data``: from pictures to a data set, and a look at one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from caffe_batch.cli.options import (
    Command,
    console,
    json_option,
    output_section,
    print_json,
    print_notes,
    section,
)

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
    """Make a data set from pictures, or look at one.

    `data SOURCE --out DIR` is short for `data create SOURCE --out DIR`.
    """


_sets, _records, _classes = section("Sets"), section("Records"), section("Classes")


@data.command(
    cls=Command,
    examples=[
        (
            "caffe-batch data pictures/ --out DIR --resize 256",
            "A folder with one subfolder per class",
        ),
        (
            "caffe-batch data train.txt --test val.txt --out DIR --encoded",
            "Two lists, as image files",
        ),
    ],
)
@click.argument("source", type=click.Path(readable=False))
@_sets(
    "--test",
    type=click.Path(),
    metavar="SOURCE",
    help="The source of the test set, of any kind that SOURCE may be.  [default: a share of each "
    "class]",
)
@_sets(
    "--test-share",
    default="20%",
    show_default=True,
    metavar="P%",
    help="The share of each class that becomes the test set; with 0 there is none.",
)
@_sets("--seed", type=int, default=0, show_default=True, help="Seed of the split and of the order.")
@_sets(
    "--shuffle/--no-shuffle",
    default=True,
    show_default=True,
    help="Shuffle the training records, or keep the order of the source.",
)
@_sets(
    "--drop-duplicates",
    is_flag=True,
    help="Leave out test pictures that are in the training set too.",
)
@_records(
    "--resize",
    metavar="SIZE",
    help="Size of the records: 256, or 240x320 (height x width).  [default: the pictures' own]",
)
@_records(
    "--fit",
    type=click.Choice(["squash", "crop", "pad"]),
    default="squash",
    show_default=True,
    help="When resizing, ignore the proportions (as convert_imageset does), crop what is too "
    "long, or add black.",
)
@_records(
    "--keep-sizes",
    is_flag=True,
    help="Keep pictures of different sizes; Caffe then needs a crop_size, or batch_size 1.",
)
@_records("--gray", is_flag=True, help="Store one channel.  [default: three, in BGR order]")
@_records("--encoded", is_flag=True, help="Store image files.  [default: pixels]")
@_records(
    "--encode-type",
    type=click.Choice(["jpg", "png"]),
    help="Format of the image files.  [default: as they are; png for other formats]",
)
@_classes(
    "--labels",
    type=click.Path(),
    metavar="FILE",
    help="Names of all classes, one per line.  [default: the folders' names, or the labels]",
)
@_classes("--renumber", is_flag=True, help="Close the gaps between the labels of a list.")
@_classes("--allow-one-class", is_flag=True, help="Accept a source with only one class.")
@output_section(
    "--out", type=click.Path(), required=True, metavar="DIR", help="The folder to make."
)
@json_option
@click.option(
    "--root",
    type=click.Path(),
    metavar="DIR",
    help="The folder that paths in lists are relative to.  [default: the list's folder]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of processes that read pictures.  [default: one per processor]",
)
def create(source: str, out: str, as_json: bool, **options: Any) -> None:
    """Make a training and a test LMDB from the pictures in SOURCE.

    SOURCE is a folder with one subfolder per class; a list with a line `path label` for each
    picture; a CSV file with the columns path and label (and optionally set); or a folder with two
    sets, train and test (or val), as folders or as lists.

    DIR gets train_lmdb and test_lmdb, labels.txt, mean.binaryproto, classes.png and dataset.json,
    which describes them all. If it is interrupted, the same command continues where it stopped.
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
        screen.print(sentence, soft_wrap=True)


@data.command()
@click.argument("path", type=click.Path(readable=False))
@output_section(
    "--page",
    type=click.Path(),
    metavar="FILE.html",
    help="Write a page with pictures of each class.",
)
@json_option
@click.option("--all", "read_all", is_flag=True, help="Read every record.  [default: a sample]")
@click.option(
    "--root",
    type=click.Path(),
    metavar="DIR",
    help="The folder that paths in a list are relative to.  [default: the list's folder]",
)
def info(path: str, as_json: bool, **options: Any) -> None:
    """Show what PATH contains: sizes, shapes, classes.

    PATH is a data set made by `caffe-batch data`, a folder of pictures, an LMDB or LevelDB, an
    HDF5 file, or a list of pictures or of HDF5 files.
    """
    from caffe_batch import api

    with _bar() as progress:
        found = api.data_info(path, progress=progress, **options)
    print_notes(found.notes)
    if options["page"] is not None:
        click.echo(f"wrote {options['page']}", err=True)
    if as_json:
        print_json(found.json())
        return
    from caffe_batch.reporting.data_view import facts, look_table

    screen = console()
    for part in found.parts:
        screen.print(part.name, soft_wrap=True)
        for title, text in facts(part):
            screen.print(f"  {title:<12}{text}", soft_wrap=True)
        for problem in part.problems:
            screen.print(f"  {problem}", soft_wrap=True)
    if any(part.by_class for part in found.parts):
        screen.print()
        screen.print(look_table(found))


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
