"""``caffe-batch memory``: the memory that a net takes in Caffe, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import (
    build_options,
    console,
    json_option,
    load_recipe,
    net_argument,
    net_options,
    print_json,
)
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.layers.base import Mode
    from caffe_batch.memory import CaffeMemory, Prediction
    from caffe_batch.net import Net


@click.command()
@net_argument
@net_options
@click.option("--batch-size", type=click.IntRange(min=1), help="TRAIN batch size, not the file's.")
@click.option(
    "--mode",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Device memory of a GPU, or host memory in CPU mode.",
)
@build_options
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs that train together; the memory is that of each of them.",
)
@click.option(
    "--by",
    type=click.Choice(["layer", "type"]),
    default="layer",
    show_default=True,
    help="One row a layer, or one a layer type, the largest first.",
)
@click.option("--top", type=click.IntRange(min=1), help="Show only the N largest rows.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Draw the memory along the net and against the batch size.",
)
@click.option(
    "--budget", metavar="SIZE", help="A budget to draw as a line in the picture, such as 8GiB."
)
@json_option
def memory(
    net: str,
    solver: str | None,
    input_shapes: tuple[str, ...],
    allow_unknown: bool,
    allow_unknown_fields: bool,
    batch_size: int | None,
    mode: Mode,
    engine: str,
    build: str,
    half: bool,
    gpus: int,
    by: str,
    top: int | None,
    plot: Path | None,
    budget: str | None,
    as_json: bool,
) -> None:
    """Predict the memory that NET takes when Caffe trains it.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template.
    Without a solver, plain SGD without a test net is assumed.
    """
    from caffe_batch import engines
    from caffe_batch.memory import Build
    from caffe_batch.reporting.memory_table import memory_json

    recipe, sources = load_recipe(
        net, solver, input_shapes, allow_unknown_fields=allow_unknown_fields
    )
    model = engines.find(engine).memory_model(
        recipe, sources, mode,
        allow_unknown=allow_unknown, build=Build(build), gpus=gpus, half=half,
    )  # fmt: skip
    train = model.train_net(batch_size)
    tests = model.test_nets(batch_size)
    prediction = model.of(train, tests)
    described = memory_json(train, tests, prediction)  # refuses a net without one batch size
    if as_json:
        print_json(described)
    else:
        _print_table(prediction, by_type=by == "type", top=top, tested=bool(tests))
    if plot is not None:
        _draw(model, train, prediction, plot, budget)


def _draw(
    model: CaffeMemory, train: Net, prediction: Prediction, plot: Path, budget: str | None
) -> None:
    from caffe_batch.net import batch_size
    from caffe_batch.reporting.memory_plot import write_memory_plot
    from caffe_batch.sizes import parse_size

    size = batch_size([node.layer for node in train.nodes])
    around = {size} | {2**power for power in range((4 * size).bit_length())}
    try:
        write_memory_plot(
            prediction,
            plot,
            title=f"{model.recipe.train.message.name or plot.stem}, batch_size {size}",
            batch_size=size,
            curve=model.peaks(sorted(around)),
            budget_bytes=None if budget is None else parse_size(budget),
        )
    except ImportError as error:
        raise InputError(
            "--plot needs matplotlib", hint="pip install 'caffe-batch[plot]'"
        ) from error
    click.echo(f"drawn: {plot}", err=True)


def _print_table(prediction: Prediction, *, by_type: bool, top: int | None, tested: bool) -> None:
    from caffe_batch.memory import Build
    from caffe_batch.reporting.memory_table import memory_table
    from caffe_batch.sizes import format_size

    out = console()
    out.print(memory_table(prediction, by_type=by_type, top=top, width=out.width))
    place = "device" if prediction.mode == "gpu" else "host"
    bound = "at least " if prediction.unknown_layers else ""
    if prediction.uncertain_bytes:
        bound = f"{format_size(prediction.lower_peak_bytes)} to "
    out.print(
        f"\nCaffe asks for {bound}{format_size(prediction.peak_bytes)} of {place} memory "
        f"({prediction.peak_bytes:,} bytes{', a test included' if tested else ''}), "
        f"{format_size(prediction.after_build_bytes)} of it "
        "while it builds the nets.",
    )
    if prediction.rounding_bytes:
        out.print(
            f"cudaMalloc rounds that up by {format_size(prediction.rounding_bytes)} "
            f"({prediction.rounding_bytes:,} bytes)."
        )
    if prediction.build is Build.CUDNN and prediction.uncertain_bytes:
        out.print("Counted is the most that cuDNN's workspaces can take: Caffe's limit.")
    if prediction.build is Build.NVCAFFE:
        out.print(
            "For NVCaffe all figures are estimates; the workspace that its convolutions share "
            "isn't counted: it takes what is free, up to half of the GPU's memory."
        )
    if prediction.unknown_layers:
        names = ", ".join(prediction.unknown_layers)
        out.print(f"A lower bound: not all memory of {names} is known.")
