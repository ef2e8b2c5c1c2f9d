"""``caffe-batch noise``: the gradient noise scale, and what it says of the effective batch."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.options import (
    console,
    json_option,
    load_recipe,
    net_argument,
    net_options,
    print_json,
)
from caffe_batch.errors import InputError


@click.command()
@net_argument
@net_options
@click.option(
    "--weights",
    metavar="FILE[,FILE...]",
    help="Trained weights (.caffemodel).  [default: the values that the fillers give]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="B",
    help="Samples of a micro-batch.  [default: the file's own]",
)
@click.option(
    "--effective-batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples per update to give advice on.  [default: the files' own]",
)
@click.option(
    "--groups",
    type=click.IntRange(min=5),
    default=10,
    show_default=True,
    help="Groups of micro-batches; more of them narrow the interval.",
)
@click.option(
    "--passes",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Micro-batches of a group; more of them help where the noise is large.",
)
@click.option("--runtime", "spec", metavar="RUNTIME", help="The Python with caffe to run on.")
@click.option("--cpu", is_flag=True, help="Run on the CPU even if there is a GPU.")
@click.option("--gpu", type=click.IntRange(min=0), metavar="ID", help="Run on this GPU.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads of the matrix products.",
)
@json_option
def noise(
    net: str,
    solver: str | None,
    input_shapes: tuple[str, ...],
    allow_unknown: bool,
    allow_unknown_fields: bool,
    weights: str | None,
    batch_size: int | None,
    effective_batch: int | None,
    groups: int,
    passes: int,
    spec: str | None,
    cpu: bool,
    gpu: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the gradient noise scale of NET on real Caffe.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. The
    gradients of many micro-batches of its own training data are compared, all at the same
    weights. Below the noise scale, a bigger effective batch buys fewer updates; far above it,
    nothing.

    Nothing is trained and nothing is written.
    """
    from rich.console import Console
    from rich.progress import Progress

    from caffe_batch import runtimes
    from caffe_batch.experiments.noise import Settings, measure_noise
    from caffe_batch.memory import CaffeMemory
    from caffe_batch.planning.noise import advise
    from caffe_batch.training import Device

    if cpu and gpu is not None:
        raise InputError("--cpu and --gpu exclude each other", hint="Give one of them.")
    recipe, sources = load_recipe(
        net, solver, input_shapes, allow_unknown_fields=allow_unknown_fields
    )
    model = CaffeMemory(recipe, sources, "cpu", allow_unknown)
    own_batch = model.batch_size * recipe.solver.iter_size
    if effective_batch is None and own_batch < 1:
        raise InputError(
            f"the files' effective batch is batch_size {model.batch_size} x iter_size "
            f"{recipe.solver.iter_size}, and an update takes one sample at least",
            hint="Correct them, or give --effective-batch and --batch-size.",
        )
    settings = Settings(
        batch_size=batch_size,
        groups=groups,
        passes=passes,
        weights=tuple(Path(name) for name in weights.split(",")) if weights else (),
        device=Device.CPU if cpu else Device.AUTO if gpu is None else Device.GPU,
        gpu=gpu,
        threads=threads,
    )
    runtime = runtimes.find(spec)
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("measuring", total=groups)
        measured = measure_noise(
            model, runtime, settings, lambda group: bar.update(task, completed=group)
        )
    for note in measured.notes:
        click.echo(f"note: {note}", err=True)
    batch = effective_batch or own_batch
    if as_json:
        advice = advise(measured.noise, batch)
        print_json({**measured.json(), "effective_batch": batch, "advice": advice.json()})
        return
    from caffe_batch.reporting.noise_view import noise_view

    console().print(noise_view(measured, batch))
