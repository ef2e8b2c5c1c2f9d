"""Options that several commands share, and what they mean."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click

from caffe_batch import engines
from caffe_batch.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from caffe_batch.layers.base import Shape
    from caffe_batch.net import Recipe, Sources

#: Columns of output that goes to a file or a pipe.
PIPE_WIDTH = 140

Command = TypeVar("Command", bound=Callable[..., Any])


def option_group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator; in ``--help`` the last one comes first."""

    def decorate(command: Command) -> Command:
        for option in options:
            command = option(command)
        return command

    return decorate


net_argument = click.argument("net", type=click.Path(readable=False))  # for shell completion
solver_option = click.option(
    "--solver",
    type=click.Path(readable=False),
    metavar="SOLVER",
    help="Solver prototxt to train NET with; its own net is then not read.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout, for other programs."
)

#: Causes that something is changed for (planning.findings.COMPENSATED, by name).
COMPENSATED = ("clip_gradients", "loss_normalization", "loss_sum", "batch_norm_average")
no_compensate_option = click.option(
    "--no-compensate",
    type=click.Choice(COMPENSATED),
    multiple=True,
    help="Change nothing for this effect of accumulation; may be repeated.",
)


#: The options of every command that reads a net.
net_options = option_group(
    click.option(
        "--allow-unknown-fields",
        is_flag=True,
        help="Skip fields that Caffe 1.0 doesn't know, with a warning each.",
    ),
    click.option(
        "--allow-unknown",
        is_flag=True,
        help="Let layer types without a rule pass; totals are then lower bounds.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="TOP=CxHxW",
        help="Size of one record of a data layer's top, without the batch; may be repeated.",
    ),
    solver_option,
)


class EngineName(click.Choice[str]):
    """The name of an engine. The builds of Caffe, which ``--engine`` once meant, are explained."""

    _builds = ("cudnn", "nvcaffe")

    def __init__(self) -> None:
        super().__init__(engines.NAMES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self._builds:
            self.fail(f"{value!r} is a build of Caffe, not an engine: say --build {value}.")
        return super().convert(value, param, ctx)


engine_option = click.option(
    "--engine",
    type=EngineName(),
    default=engines.DEFAULT,
    show_default=True,
    help="What trains.",
)

#: The options that say what trains: the engine, and which build of Caffe; both come as names.
build_options = option_group(
    click.option(
        "--half",
        is_flag=True,
        help="NVCaffe in half precision: FLOAT16 as default_forward_type and "
        "default_backward_type.",
    ),
    click.option(
        "--build",
        type=click.Choice(["caffe", "cudnn", "nvcaffe"]),
        default="caffe",
        show_default=True,
        help="The build of Caffe whose GPU memory is predicted: without cuDNN (exact), with cuDNN "
        "(bounds), or NVIDIA's fork (an estimate).",
    ),
    engine_option,
)


def parse_input_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Shapes by top name from ``data=3x256x256``; ``label=`` is a scalar.

    Raises:
        InputError: Not of that form, a size of 0, or a top named twice.
    """
    shapes: dict[str, Shape] = {}
    for text in texts:
        top, equals, sizes = text.partition("=")
        numbers = sizes.lower().split("x") if sizes else []
        if not top or not equals or not all(map(_is_size, numbers)):
            raise InputError(
                f"--input-shape {text!r} is not of the form TOP=CxHxW",
                hint="For instance --input-shape data=3x256x256: channels, height, width.",
            )
        if top in shapes:
            raise InputError(f"--input-shape names top {top!r} twice", hint="Give it once.")
        shapes[top] = tuple(int(n) for n in numbers)
    return shapes


def _is_size(text: str) -> bool:
    """Whether a text is a size of an axis, in digits that any Blob's axis needs at most."""
    return text.isdecimal() and len(text) <= 19 and int(text) > 0


def load_recipe(
    net: str, solver: str | None, input_shapes: Sequence[str], *, allow_unknown_fields: bool
) -> tuple[Recipe, Sources]:
    """The recipe of NET and SOLVER, and where its data is; notes and warnings go to stderr."""
    from caffe_batch.net import Sources, read_recipe

    shapes = parse_input_shapes(input_shapes)
    with warnings_on_stderr():
        template = _is_template(net)
        path = _render_template(net) if template else net
        recipe = read_recipe(path, solver, allow_unknown_fields=allow_unknown_fields)
    for note in recipe.notes:
        click.echo(f"note: {note}", err=True)
    _check_tops(shapes, recipe)
    beside = Path(path).parent if template else None  # a temporary folder: no data is there
    return recipe, Sources(tuple(d for d in recipe.directories if d != beside), shapes)


def _check_tops(shapes: Iterable[str], recipe: Recipe) -> None:
    """Raises an InputError for a top that no shape can be given for."""
    known = list(dict.fromkeys(recipe.open_tops()))
    for top in shapes:
        if top not in known:
            raise InputError(
                f"--input-shape names top {top!r}, which no data layer of the net has",
                hint=did_you_mean(top, known) or f"It can give the size of {', '.join(known)}.",
            )


def _is_template(net: str) -> bool:
    """Whether NET is no file but the name of a template.

    Raises:
        InputError: It is neither, but looks like a template's name.
    """
    from caffe_batch.rendering import available

    names = [] if os.path.exists(net) else [template.name for template in available()]
    near = None if net in names or "." in net else did_you_mean(net, names)
    if near:
        raise InputError(f"{net}: there is no such file, and no such template", hint=near)
    return net in names


def _render_template(net: str) -> str:
    """A temporary file with what the template NET renders to."""
    from caffe_batch.rendering import render

    folder = click.get_current_context().with_resource(TemporaryDirectory(prefix="caffe-batch-"))
    path = Path(folder) / f"{net}.prototxt"
    path.write_text(render(net, {}), encoding="utf-8")
    click.echo(
        f"note: template {net} with its defaults; `caffe-batch render {net} --variables` lists "
        "them",
        err=True,
    )
    return str(path)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Python warnings of the library become plain lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                click.echo(f"warning: {warning.message}", err=True)


def console() -> Console:
    """Where tables go: stdout, as wide as the terminal, or wide enough where there is none.

    Text is printed as it is: layers may be called ``[/conv]`` or ``:fire:``.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(data, indent=2))
