"""``caffe-batch classify``: what a trained net sees in pictures."""

from __future__ import annotations

import os
import sys
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
from caffe_batch.errors import InputError

_answers = section("Answers")


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch classify job cat.jpg", "The five most likely classes"),
        ("caffe-batch classify model pictures --json", "All pictures in a folder"),
        ("caffe-batch classify model pictures --blob fc7 --out features.h5", "Their features"),
    ],
)
@click.argument("target", type=click.Path(), metavar="JOB|DIR")
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE...")
@_answers(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="K",
    help="How many classes to show.",
)
@_answers(
    "--blob",
    multiple=True,
    metavar="NAME",
    help="Get the values of this blob instead of the classes; may be repeated. Needs --out.",
)
@output_section(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.h5",
    help="The HDF5 file for the values of --blob: one row per picture, and the pictures' names.",
)
@output_section(
    "--masks",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the segmentation of each picture to this folder, as a PNG.",
)
@json_option
@snapshot_options
@computing_options
@_answers(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="B",
    help="Pictures per forward pass.",
)
def classify(target: str, images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show what a trained net sees in pictures.

    JOB is a job, whose newest snapshot is used; DIR is a folder that `caffe-batch deploy` made.
    IMAGE is a file or a folder; `-` reads one picture, or a list of paths, from stdin.

    Pictures are prepared as the TEST net's data layer prepares them. Pictures that can't be read
    are named and the others classified; the exit code is then 2.
    """
    from caffe_batch import api
    from caffe_batch.reporting.answers_view import answer_lines

    given: list[Any] = []
    for each in images:
        given += _from_stdin() if each == "-" else [each]
    found = api.classify(target, given, **options)
    print_notes(found.notes)
    if as_json:
        print_json(found.json())
    elif options["out"] is None:
        screen = console()
        for answer in found.answers:
            for line in answer_lines(found, answer):
                screen.print(line, soft_wrap=True)
    if options["out"] is not None:
        click.echo(f"wrote {options['out']}", err=True)
    wrong = [answer for answer in found.answers if answer.problem]
    if wrong:
        first = wrong[0]
        more = f", and {len(wrong) - 1} more pictures" if len(wrong) > 1 else ""
        raise InputError(f"{first.picture}: {first.problem}{more}")


def _from_stdin() -> list[Any]:
    """The picture on stdin, or the paths listed there."""
    from caffe_batch.api import Picture

    data = sys.stdin.buffer.read()
    if b"\0" in data[:4096]:  # in a list, each path may end with one, as `find -print0` writes them
        names = data.split(b"\0")
        if not all(os.path.lexists(name) for name in names if name):
            return [Picture("-", data)]
    else:
        names = data.split(b"\n")
    if data.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")):
        return [Picture("-", data)]
    return [os.fsdecode(name) for name in names if name]
