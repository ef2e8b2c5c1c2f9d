"""``caffe-batch plan``: finds batch_size x iter_size for an effective batch and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.data_options import data_option, data_progress
from caffe_batch.cli.options import (
    Command,
    console,
    json_option,
    net_argument,
    output_section,
    print_json,
    print_notes,
    warnings_on_stderr,
)
from caffe_batch.cli.plan_options import (
    gpu_option,
    plan_options,
    precision_option,
    scaling_options,
)
from caffe_batch.errors import InputError


@click.command(
    cls=Command,
    examples=[
        (
            "caffe-batch plan solver.prototxt --effective-batch 256 --gpu-memory 8GiB",
            "The split of a batch of 256 that fits in 8 GiB",
        ),
        (
            "caffe-batch plan solver.prototxt --gpu-memory auto --out job",
            "A job with the files' own batch, for the memory that is free on this GPU",
        ),
        (
            "caffe-batch plan lenet_digits --mode cpu --gpu-memory 512MiB --epochs 40 --out job",
            "A template, on the CPU, for 40 epochs",
        ),
    ],
)
@net_argument
@plan_options
@gpu_option
@precision_option
@scaling_options
@output_section(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the job to this directory.",
)
@data_option
@json_option
def plan(
    net: str,
    out: Path | None,
    as_json: bool,
    check_data: bool | None,
    link: str | None,
    samples_per_s: float | None,
    **options: Any,
) -> None:
    """Find the batch_size x iter_size that fits a memory budget.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. The
    plan takes the largest batch_size that divides the effective batch exactly over the GPUs and
    whose predicted memory fits. --out DIR writes solver.prototxt, net.prototxt and plan.json to
    DIR, and `caffe-batch train DIR` runs them.
    """
    from caffe_batch import api

    if (link is None) is not (samples_per_s is None):
        raise InputError(
            "--link and --samples-per-s need each other",
            hint="`caffe-batch train` shows the samples per second of one GPU while it runs.",
        )
    with warnings_on_stderr(), data_progress(check_data) as look:
        found = api.plan(net, **options, **look)
    print_notes((*found.file_notes, *found.data.sentences()))
    scales = (
        found.scaling(samples_per_s=samples_per_s, link=link)
        if link is not None and samples_per_s is not None
        else ()
    )
    job = None if out is None else found.write(out)
    if as_json:
        more = {"scaling": [each.json() for each in scales]} if scales else {}
        print_json({**found.json(), **more, "files": job.files.json() if job else {}})
        return
    from caffe_batch.reporting.plan_view import plan_view

    terminal = console()
    terminal.print(plan_view(found))
    if scales:
        from caffe_batch.reporting.scaling_view import scaling_view

        terminal.print("\nOn more GPUs (calculated, not measured)")
        terminal.print(scaling_view(scales, found.gpus))
    if job is None:
        terminal.print("\nNothing is written without --out DIR.")
    else:
        where = job.path
        on = "" if options["gpu"] is None else f" --gpu {options['gpu']}"
        terminal.print(
            f"\nWritten to {where}\nRun it: caffe-batch train {where}{on}", soft_wrap=True
        )
