"""``caffe-batch strategies``: the ways to train when only a small batch fits in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.options import (
    Command,
    build_options,
    console,
    json_option,
    net_argument,
    net_options,
    option_group,
    output_section,
    print_json,
    print_notes,
    warnings_on_stderr,
)
from caffe_batch.cli.plan_options import (
    budget_options,
    effective_batch_option,
    epochs_option,
    gpu_option,
    recipe_batch_option,
    records_options,
    test_every_option,
)

#: The options that describe the recipe and the memory.
strategies_options = option_group(
    build_options,
    records_options,
    recipe_batch_option,
    test_every_option,
    epochs_option,
    effective_batch_option,
    budget_options,
    net_options,
)


@click.command(cls=Command)
@net_argument
@strategies_options
@gpu_option
@output_section(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a job for each strategy, as DIR/NAME.",
)
@json_option
def strategies(net: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """List the ways to train when only a small batch fits.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. The
    strategies are accumulation, small batches with another rate or momentum, smaller images, a
    batch that grows, and the CPU; each is listed with its predicted memory and with the noise of
    its updates relative to the recipe's. --out DIR writes a directory for each, which
    `caffe-batch train DIR/NAME` runs and `caffe-batch compare DIR` compares.
    """
    from caffe_batch import api
    from caffe_batch.reporting.strategies_view import strategies_view

    with warnings_on_stderr():
        found = api.strategies(net, **options)
    print_notes(found.file_notes)
    if out is not None:
        found.write(out)
    if as_json:
        print_json({**found.json(), "directory": None if out is None else str(out.resolve())})
        return
    terminal = console()
    terminal.print(strategies_view(found))
    if out is None:
        terminal.print("\nNothing is written without --out DIR.")
    else:
        terminal.print(
            f"\nWritten to {out}\nRun one: caffe-batch train {out}/NAME\n"
            f"Run them all: caffe-batch compare {out}",
            soft_wrap=True,
        )
