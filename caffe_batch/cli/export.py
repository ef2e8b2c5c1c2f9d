"""``caffe-batch export``: a trained net as ONNX or TorchScript."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffe_batch.cli.job_options import runtime_option, snapshot_options
from caffe_batch.cli.options import (
    Command,
    engine_section,
    json_option,
    output_section,
    print_json,
    print_notes,
    section,
)
from caffe_batch.terminal import one_line

_net = section("Net")


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch export job --onnx model.onnx", "The newest snapshot of a job"),
        (
            "caffe-batch export job --best --onnx model.onnx --preprocessing",
            "With pictures as input",
        ),
        (
            "caffe-batch export deploy.prototxt --weights net.caffemodel --torch model.pt",
            "A net from somewhere else, for PyTorch",
        ),
    ],
)
@click.argument("source", type=click.Path(readable=False), metavar="JOB|DIR|NET")
@output_section(
    "--onnx",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.onnx",
    help="Write an ONNX file.",
)
@output_section(
    "--torch",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.pt",
    help="Write a TorchScript file, which torch.jit.load reads without caffe-batch.",
)
@output_section(
    "--opset",
    type=click.IntRange(13, 20),
    default=17,
    show_default=True,
    help="The version of ONNX's operators.",
)
@output_section(
    "--preprocessing",
    is_flag=True,
    help="Let the graph take pictures: bytes in the shape (batch, height, width, channels), in "
    "RGB order, of the size of the data set's records.",
)
@json_option
@snapshot_options
@_net(
    "--weights",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE.caffemodel",
    help="The weights of NET.",
)
@engine_section(
    "--against",
    type=click.Choice(["caffe"]),
    help="Also compare with real Caffe.",
)
@runtime_option
def export(source: str, as_json: bool, **options: Any) -> None:
    """Write a trained net as a file for ONNX runtimes or for PyTorch.

    JOB is a job, whose newest snapshot is used; DIR is a folder that `caffe-batch deploy` made;
    NET is a net prototxt. Data layers become inputs; losses, accuracies and labels are left out; a
    Softmax takes the place of a loss that has one. Layers that can't be exported are named before
    anything is written.

    The files are run with batches of several sizes. Unless their outputs agree with the PyTorch
    engine's within 1e-4 of the largest value, nothing is kept. --onnx needs the packages onnx and
    onnxruntime (`pip install 'caffe-batch[onnx]'`).
    """
    from caffe_batch import api

    made = api.export(source, **options)
    print_notes(made.notes)
    if as_json:
        print_json(made.json())
        return
    for kind, shapes in (("input", made.written.inputs), ("output", made.written.outputs)):
        for name, shape in shapes.items():
            sizes = " x ".join(str(size or "batch") for size in shape)
            takes = ""
            if kind == "input" and name == made.pixels:
                takes = ", bytes, gray" if shape[-1] == 1 else ", bytes, RGB"
            click.echo(one_line(f"{kind + ':':<8}{name}, {sizes}{takes}"))
    for kind, file in (("onnx", made.onnx), ("torch", made.torch)):
        if file is not None:
            of = f" (opset {made.opset})" if kind == "onnx" else ""
            click.echo(one_line(f"{kind + ':':<8}{file}{of}"))
            click.echo(f"        largest difference {made.written.differences[kind]:.1e} "
                       f"from the PyTorch engine")  # fmt: skip
    for title, worst in made.comparisons:
        click.echo(f"check:  largest difference {worst:.1e} from {title}")
