"""``caffe-batch noise``: the gradient noise scale, and what it says about the effective batch."""

from __future__ import annotations

from typing import Any

import click

from caffe_batch.cli.late_signals import late_signals
from caffe_batch.cli.options import (
    Command,
    console,
    engine_option,
    engine_section,
    json_option,
    net_argument,
    net_options,
    print_json,
    print_notes,
    section,
    warnings_on_stderr,
)


@click.command(cls=Command)
@net_argument
@net_options
@section("Net")(
    "--weights",
    metavar="FILE[,FILE...]",
    help="Trained weights (.caffemodel).  [default: the fillers' initial values]",
)
@section("Measurement")(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="B",
    help="Samples per micro-batch.  [default: the file's own]",
)
@section("Measurement")(
    "--effective-batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="The effective batch that the advice is about.  [default: the files' own]",
)
@section("Measurement")(
    "--groups",
    type=click.IntRange(min=5),
    default=10,
    show_default=True,
    help="Groups of micro-batches; more groups narrow the interval.",
)
@section("Measurement")(
    "--passes",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Micro-batches per group; more of them help if the noise is large.",
)
@engine_option
@engine_section("--runtime", metavar="RUNTIME", help="The Python with caffe to run on.")
@engine_section("--cpu", is_flag=True, help="Run on the CPU even if there is a GPU.")
@engine_section("--gpu", type=click.IntRange(min=0), metavar="ID", help="Run on this GPU.")
@engine_section(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads for the matrix products.",
)
@json_option
@click.pass_context
def noise(ctx: click.Context, /, net: str, groups: int, as_json: bool, **options: Any) -> None:
    """Measure the gradient noise scale of NET on real Caffe.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. The
    gradients of many micro-batches of its own training data are compared, all at the same
    weights. Below the noise scale, a larger effective batch saves updates; far above it, it saves
    nothing.

    Nothing is trained and nothing is written.
    """
    from rich.progress import Progress

    from caffe_batch import api
    from caffe_batch.reporting.console import PlainConsole
    from caffe_batch.reporting.noise_view import noise_view

    late = late_signals(ctx)
    screen = PlainConsole(stderr=True)
    bar = Progress(console=screen, transient=True, disable=not screen.is_terminal)
    with warnings_on_stderr(), bar:
        task = bar.add_task("measuring", total=groups)
        try:
            found = api.noise(
                net,
                groups=groups,
                **options,
                observer=lambda group: bar.update(task, completed=group),
            )
        finally:
            late()
    print_notes([*found.file_notes, *found.notes])
    if as_json:
        print_json(found.json())
    else:
        console().print(noise_view(found, found.effective_batch))
