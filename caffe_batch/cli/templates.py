"""``caffe-batch templates``: the nets that come with caffe-batch, and the memory that they take."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.options import console, json_option, print_json, warnings_on_stderr


@click.group()
def templates() -> None:
    """Show the nets that come with caffe-batch.

    A template's name can be used wherever a NET is expected: `caffe-batch plan resnet50 ...`.
    `caffe-batch render NAME --variables` describes its variables.
    """


@templates.command("list", short_help="List the templates with parameters and memory.")
@click.option(
    "--templates",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A directory with your own templates, listed together with caffe-batch's.",
)
@json_option
def list_(folder: Path | None, as_json: bool) -> None:
    """List the templates: what each is for, its parameters, and its memory.

    The memory is what Caffe requests from the GPU in training with a batch of 1 and of 32,
    without a test net, at the template's own image size.
    """
    from rich.progress import Progress

    from caffe_batch import api
    from caffe_batch.reporting.console import PlainConsole
    from caffe_batch.reporting.templates_view import templates_view

    screen = PlainConsole(stderr=True)
    bar = Progress(console=screen, transient=True, disable=not screen.is_terminal)
    with warnings_on_stderr(), bar:
        task = bar.add_task("reading the templates")
        found = api.template_sizes(
            folder, progress=lambda done, all_: bar.update(task, completed=done, total=all_)
        )
    if as_json:
        print_json([size.json() for size in found])
    else:
        console().print(templates_view([size.json() for size in found]))
