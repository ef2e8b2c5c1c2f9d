"""``caffe-batch deploy``: a trained job becomes a net for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.job_options import (
    job_engine_option,
    runtime_option,
    snapshot_options,
    threads_option,
)
from caffe_batch.cli.options import (
    Command,
    console,
    json_option,
    output_section,
    print_json,
    print_notes,
    section,
)

_net = section("Net")


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch deploy job --out model", "The newest snapshot"),
        ("caffe-batch deploy job --best --fold-batch-norm --out model", "The best one, smaller"),
    ],
)
@click.argument("job", type=click.Path())
@output_section(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder to make.",
)
@json_option
@snapshot_options
@_net(
    "--fold-batch-norm",
    is_flag=True,
    help="Merge BatchNorm, Scale and Bias layers into the weights of the layer before them.",
)
@_net(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names of the classes, one per line.  [default: those of the data set]",
)
@job_engine_option
@runtime_option
@threads_option
@section("Checks")(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compare the scores of both nets on a batch of the test data.",
)
def deploy(job: str, out: Path, as_json: bool, **options: Any) -> None:
    """Make a net for inference from the training in JOB.

    DIR gets deploy.prototxt, the weights, the mean image, labels.txt and deploy.json, which says
    how to turn a picture into the net's input. Data layers become inputs; losses, accuracies and
    labels are left out; a Softmax takes the place of a loss that has one.

    A batch of the test data is run through both nets on the CPU. Unless their scores agree
    within 1e-6 (1e-4 with folded weights), nothing is written.
    """
    from caffe_batch import api
    from caffe_batch.reporting.deploy_view import deploy_lines

    made = api.deploy(job, out, **options)
    print_notes(made.notes)
    if as_json:
        print_json({"folder": str(made.folder), **made.json()})
        return
    screen = console()
    for line in deploy_lines(made):
        screen.print(line, soft_wrap=True)
