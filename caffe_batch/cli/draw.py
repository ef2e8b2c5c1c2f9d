"""``caffe-batch draw``: a net as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.options import (
    Command,
    net_argument,
    net_options,
    output_section,
    print_notes,
    section,
    warnings_on_stderr,
)


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch draw train_val.prototxt", "A net file, as train_val.svg"),
        ("caffe-batch draw resnet50 --input-shape data=3x256x256 -o resnet50.png", "A template"),
    ],
)
@net_argument
@net_options
@section("Net")(
    "--batch-size", type=click.IntRange(min=1), help="TRAIN batch size.  [default: the file's]"
)
@section("Net")(
    "--phase",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Which net of the file to draw.",
)
@output_section(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg|png",
    help="The picture.  [default: NET's name + .svg]",
)
def draw(net: str, phase: str, output: Path | None, **options: Any) -> None:
    """Draw NET: its layers with their shapes, parameters and memory.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. Each
    box is a layer, together with the layers that work in place on its blob; its color says
    whether it is trained. The memory is what Caffe requests from the GPU in training.
    """
    from caffe_batch import api

    with warnings_on_stderr():
        found = api.memory(net, **options)
    print_notes(found.file_notes)
    picture = found.draw(output or f"{Path(net).stem}.svg", phase=phase)
    click.echo(f"wrote {picture}", err=True)
