"""``caffe-batch verify``: accumulation against the whole batch, measured on real Caffe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import (
    console,
    json_option,
    load_recipe,
    net_argument,
    net_options,
    no_compensate_option,
    print_json,
)
from caffe_batch.errors import CaffeBatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe_batch.planning.audit.findings import Finding


@click.command()
@net_argument
@net_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="B",
    help="Samples of a micro-batch.  [default: 4, or another small size that the net and the "
    "memory allow]",
)
@click.option(
    "--iter-size",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    metavar="K",
    help="Micro-batches of an update.",
)
@no_compensate_option
@click.option("--runtime", "spec", metavar="RUNTIME", help="The Python with caffe to run on.")
@json_option
def verify(
    net: str,
    solver: str | None,
    input_shapes: tuple[str, ...],
    allow_unknown: bool,
    allow_unknown_fields: bool,
    batch_size: int | None,
    iter_size: int,
    no_compensate: tuple[str, ...],
    spec: str | None,
    as_json: bool,
) -> None:
    """Measure on real Caffe whether accumulation is the same training.

    Trains NET for three updates at batch_size B x iter_size K and at batch_size B*K, on the CPU,
    from the same weights with the same samples, and compares gradient, weights and loss: with the
    changes that a plan makes, and without them. Its own data is read where it is there, else
    samples are made up. Exits with 1 if trainings differ that the audit calls the same.
    """
    from caffe_batch import runtimes
    from caffe_batch.experiments.comparison import judge
    from caffe_batch.experiments.verify import verify as measure
    from caffe_batch.jobs.job_files import with_solver
    from caffe_batch.memory import CaffeMemory
    from caffe_batch.planning.audit.audit import audit
    from caffe_batch.planning.audit.findings import Cause
    from caffe_batch.reporting.verify_view import verify_view

    refused = frozenset(map(Cause, no_compensate))
    recipe, sources = load_recipe(
        net, solver, input_shapes, allow_unknown_fields=allow_unknown_fields
    )
    recipe, _ = with_solver(recipe, sources, allow_unknown=allow_unknown)
    model = CaffeMemory(recipe, sources, "cpu", allow_unknown)

    def audited(size: int, passes: int) -> Sequence[Finding]:
        # The whole batch, one pass, is what the recipe means: nothing is refused there.
        kept = refused if passes > 1 else frozenset()
        return audit(model, batch_size=size, iter_size=passes, refused=kept)

    runtime = runtimes.find(spec)
    found = measure(model, runtime, audited, batch_size=batch_size, iter_size=iter_size)
    if as_json:
        print_json(found.json())
    else:
        console().print(verify_view(found))
    verdict = judge(found)
    if not verdict.held:
        raise CaffeBatchError(
            verdict.sentence,
            hint="The audit is wrong about this net: please report it with the net. Don't trust "
            "its verdict here.",
        )
