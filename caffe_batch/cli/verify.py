"""``caffe-batch verify``: measures accumulation against the whole batch, on real Caffe."""

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
    no_compensate_option,
    print_json,
    print_notes,
    section,
    warnings_on_stderr,
)


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch verify job", "A planned job"),
        (
            "caffe-batch verify solver.prototxt --batch-size 8 --iter-size 4",
            "Any split of any net",
        ),
    ],
)
@net_argument
@net_options
@section("Batch and split")(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="B",
    help="Samples of a micro-batch.  [default: 4, or another small size that the net and memory "
    "allow]",
)
@section("Batch and split")(
    "--iter-size",
    type=click.IntRange(min=2),
    metavar="K",
    help="Micro-batches per update.  [default: 3; if neither number is given, files that "
    "accumulate are also measured at their own split]",
)
@no_compensate_option
@engine_option
@engine_section("--runtime", metavar="RUNTIME", help="The Python with caffe to run on.")
@json_option
@click.pass_context
def verify(ctx: click.Context, /, net: str, as_json: bool, **options: Any) -> None:
    """Measure on real Caffe whether accumulation is the same training.

    Trains NET for three updates at batch_size B x iter_size K and at batch_size B*K, on the CPU,
    from the same weights with the same samples, and compares gradient, weights and loss: with the
    changes that a plan makes, and without them. Random draws are held equal in both, or turned
    off; their own effect is shown separately. NET's own data is used where it is available,
    otherwise samples are made up. NET may also be a job directory. Exits with 1 if trainings differ
    that the audit calls the same.
    """
    from caffe_batch import api
    from caffe_batch.reporting.verify_view import verify_view

    late = late_signals(ctx)
    with warnings_on_stderr():
        try:
            found = api.verify(net, **options)
        finally:
            late()
    print_notes(found.file_notes)
    if as_json:
        print_json(found.json())
    else:
        console().print(verify_view(found))
    found.check()
