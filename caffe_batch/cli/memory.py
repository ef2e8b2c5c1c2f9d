"""``caffe-batch memory``: the memory that a net needs in Caffe, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_batch.cli.data_options import progress_bars
from caffe_batch.cli.options import (
    Command,
    build_options,
    console,
    json_option,
    net_argument,
    net_options,
    output_section,
    print_json,
    print_notes,
    section,
    warnings_on_stderr,
)

if TYPE_CHECKING:
    from caffe_batch.api import Memory


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch memory net.prototxt --batch-size 32", "The memory at another batch size"),
        (
            "caffe-batch memory net.prototxt --by type --plot memory.png --budget 8GiB",
            "What takes the memory, as a table and as a picture",
        ),
    ],
)
@net_argument
@net_options
@section("Batch")(
    "--batch-size", type=click.IntRange(min=1), help="TRAIN batch size.  [default: the file's]"
)
@section("Memory")(
    "--mode",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Device memory of a GPU, or host memory in CPU mode.",
)
@build_options
@section("Memory")(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs that train together; the prediction is for each of them.",
)
@output_section(
    "--by",
    type=click.Choice(["layer", "type"]),
    default="layer",
    show_default=True,
    help="One row for each layer, or for each layer type, largest first.",
)
@output_section("--top", type=click.IntRange(min=1), help="Show only the N largest rows.")
@output_section(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Plot the memory along the net and against the batch size.",
)
@output_section(
    "--budget", metavar="SIZE", help="A budget to draw as a line in the plot, such as 8GiB."
)
@json_option
def memory(
    net: str,
    by: str,
    top: int | None,
    plot: Path | None,
    budget: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict the memory that NET needs when Caffe trains it.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template.
    Without a solver, plain SGD without a test net is assumed.
    """
    from caffe_batch import api

    with warnings_on_stderr(), progress_bars() as show:
        found = api.memory(net, **options, progress=show)
    print_notes(found.file_notes)
    if as_json:
        print_json(found.json())
    else:
        _print_table(found, by_type=by == "type", top=top)
    if plot is not None:
        click.echo(f"wrote {found.plot(plot, budget=budget)}", err=True)


def _print_table(found: Memory, *, by_type: bool, top: int | None) -> None:
    from caffe_batch.reporting.memory_table import memory_sentences, memory_table

    out = console()
    out.print(memory_table(found, by_type=by_type, top=top, width=out.width))
    out.print()
    sentences = memory_sentences(
        found, tested=bool(found.tests), assumed=found.assumptions, skipped=found.skipped_fields
    )
    for sentence in sentences:
        out.print(sentence)
