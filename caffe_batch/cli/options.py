"""Options that several commands share, and how they print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from caffe_batch import engines
from caffe_batch.files import json_text
from caffe_batch.terminal import one_line

if TYPE_CHECKING:
    from rich.console import Console

#: The width in columns of output that goes to a file or a pipe.
PIPE_WIDTH = 140

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Option(click.Option):
    """An option with the section of its command's help in which it is listed."""

    def __init__(self, *args: Any, section: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


def section(title: str) -> Callable[..., Callable[[Decorated], Decorated]]:
    """What ``click.option`` is, for the options of one section."""
    return partial(click.option, cls=Option, section=title)


class Command(click.Command):
    """A command whose help lists its options by section, and shows examples.

    Args:
        examples: Command lines to show, each with what it does: ``(line, purpose)``.
    """

    def __init__(
        self, *args: Any, examples: Sequence[tuple[str, str]] = (), **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the sections in the order in which they first occur."""
        if self.examples:
            with formatter.section("Examples"):
                for line, purpose in self.examples:
                    formatter.write_text(f"{purpose}:")
                    formatter.write(f"{'':{formatter.current_indent}}  {line}\n")
        sections: dict[str, list[tuple[str, str]]] = {}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, Option):
                sections.setdefault(parameter.section, []).append(record)
            elif record is not None and isinstance(parameter, click.Option):
                rest.append(record)
        for title, records in {**sections, "Other options": rest}.items():
            with formatter.section(title):
                formatter.write_dl(records)


def option_group(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator; in ``--help`` the last one comes first."""

    def decorate(command: Decorated) -> Decorated:
        for option in options:
            command = option(command)
        return command

    return decorate


net_section = section("Net")
engine_section = section("Engine")
_compensation_section = section("Compensations")

net_argument = click.argument("net", type=click.Path(readable=False))  # for shell completion
solver_option = net_section(
    "--solver",
    type=click.Path(readable=False),
    metavar="SOLVER",
    help="The solver prototxt to train NET with; the net that it names isn't read.",
)
output_section = section("Output")
json_option = output_section(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout, for other programs."
)

#: The causes that a plan compensates for (planning.audit.findings.COMPENSATED, by name).
COMPENSATED = ("clip_gradients", "loss_normalization", "loss_sum", "batch_norm_average")
no_compensate_option = _compensation_section(
    "--no-compensate",
    type=click.Choice(COMPENSATED),
    multiple=True,
    help="Don't compensate for this effect of accumulation; may be repeated.",
)


#: The options of every command that reads a net.
net_options = option_group(
    net_section(
        "--data",
        type=click.Path(),
        metavar="DIR",
        help="If NET is a template: a data set made by `caffe-batch data`, which sets its "
        "sources, classes, means and crop.",
    ),
    net_section(
        "--fork",
        metavar="FORK",
        help="The fork of Caffe that the net is written for, where forks differ: ssd, rcnn, "
        "deeplab, segnet, pspnet, nvcaffe or c3d.  [default: decided by its layer types]",
    ),
    net_section(
        "--rules",
        type=click.Path(readable=False),
        multiple=True,
        metavar="FILE.py",
        help="Rules for layer types that Caffe 1.0 doesn't have; may be repeated.",
    ),
    net_section(
        "--run-python-layers",
        is_flag=True,
        help="Ask Python layers for the shapes of their tops: build them once in the runtime. Runs "
        "their code.",
    ),
    net_section(
        "--same-shape",
        multiple=True,
        metavar="TYPE",
        help="A layer type whose tops have the shape of its largest bottom (TYPE=1: of bottom "
        "1); may be repeated.",
    ),
    net_section(
        "--treat-as",
        multiple=True,
        metavar="TYPE=KNOWN",
        help="Treat a layer type as another one, such as BN=BatchNorm; may be repeated.",
    ),
    net_section(
        "--allow-unknown-fields",
        is_flag=True,
        help="Skip fields that Caffe 1.0 doesn't know, with a warning for each.",
    ),
    net_section(
        "--allow-unknown",
        is_flag=True,
        help="Accept layer types without a rule; totals are then lower bounds.",
    ),
    net_section(
        "--input-shape",
        multiple=True,
        metavar="TOP=CxHxW",
        help="Size of one record of a top, without the batch, or TOP:NxCxHxW with its first axis "
        "(N: the batch); may be repeated.",
    ),
    solver_option,
)


class EngineName(click.Choice[str]):
    """The name of an engine; names of Caffe builds, which --engine used to take, get a hint."""

    _builds = ("cudnn", "nvcaffe")

    def __init__(self) -> None:
        super().__init__(engines.NAMES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self._builds:
            self.fail(f"{value!r} is a build of Caffe, not an engine: say --build {value}.")
        return super().convert(value, param, ctx)


engine_option = engine_section(
    "--engine",
    type=EngineName(),
    default=engines.DEFAULT,
    show_default=True,
    envvar="CAFFE_BATCH_ENGINE",
    show_envvar=True,
    help="The engine that trains.",
)

#: How exactly an engine can calculate (planning.precision.Precision, by value).
PRECISIONS = ("float32", "tf32", "bf16")

#: The options that say what trains: the engine and the build of Caffe, both as names.
build_options = option_group(
    engine_section(
        "--half",
        is_flag=True,
        help="NVCaffe in half precision: FLOAT16 as default_forward_type and "
        "default_backward_type.",
    ),
    engine_section(
        "--build",
        type=click.Choice(["caffe", "cudnn", "nvcaffe"]),
        default="caffe",
        show_default=True,
        help="The build of Caffe whose GPU memory is predicted: without cuDNN (exact), with cuDNN "
        "(bounds), or NVIDIA's fork (an estimate).",
    ),
    engine_option,
)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print the library's Python warnings as plain lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                click.echo(one_line(f"warning: {warning.message}"), err=True)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on stderr, one line each."""
    for note in notes:
        click.echo(one_line(f"note: {note}"), err=True)


def console() -> Console:
    """The console for tables: stdout, as wide as the terminal, else ``PIPE_WIDTH``.

    Text is printed verbatim: layers may be called ``[/conv]`` or ``:fire:``.
    """
    from caffe_batch.reporting.console import PlainConsole

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return PlainConsole(width=width)


def print_json(data: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json_text(data), nl=False)
