"""``caffe-batch verify``: measures accumulation against the whole batch, on real Caffe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from caffe_batch.cli.late_signals import late_signals
from caffe_batch.cli.options import (
    PRECISIONS,
    Command,
    EngineName,
    console,
    engine_option,
    engine_section,
    json_option,
    net_argument,
    net_options,
    no_compensate_option,
    print_json,
    print_notes,
    section,
    warnings_on_stderr,
)
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from caffe_batch.api import EngineVerification, Verification


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch verify job", "A planned job"),
        (
            "caffe-batch verify solver.prototxt --batch-size 8 --iter-size 4",
            "Any split of a net",
        ),
        ("caffe-batch verify job --against caffe", "A job for PyTorch, on both engines"),
    ],
)
@net_argument
@net_options
@section("Batch and split")(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="B",
    help="Samples per micro-batch.  [default: 4, or another small size that the net and memory "
    "allow]",
)
@section("Batch and split")(
    "--iter-size",
    type=click.IntRange(min=1),
    metavar="K",
    help="Micro-batches per update.  [default: 3; if neither number is given, files that "
    "accumulate are also measured at their own split; with --against the files' own, but at most "
    "3]",
)
@no_compensate_option
@engine_option
@engine_section(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="With --against: the precision of PyTorch's arithmetic.  [default: as the job is "
    "planned, or "
    "float32]",
)
@engine_section(
    "--against-runtime", metavar="RUNTIME", help="The Python that the other engine runs on."
)
@engine_section(
    "--against",
    type=EngineName(),
    help="Compare the engine with another one instead: the same net, weights and samples on both.  "
    "[--engine is then the job's, or the other one]",
)
@engine_section("--runtime", metavar="RUNTIME", help="The Python with caffe to run on.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    net: str,
    as_json: bool,
    against: str | None,
    against_runtime: str | None,
    precision: Any,
    **options: Any,
) -> None:
    """Measure on real Caffe whether accumulation is the same training.

    Trains NET for three updates at batch_size B x iter_size K and at batch_size B*K, on the CPU,
    from the same weights with the same samples, and compares gradient, weights and loss: with the
    changes that a plan makes, and without them. Random draws are held equal in both, or turned
    off; their own effect is shown separately. NET's own data is used if it is available;
    otherwise samples are made up. NET may also be a job directory. Exits with 1 if trainings
    that the audit calls the same differ.

    With --against ENGINE it compares engines: both train from the same weights with the same
    samples, and are compared with the same training in double precision. It exits with 1 if
    either engine's error is larger than rounding explains, which a control training measures.
    """
    from caffe_batch import api

    found: api.Verification | api.EngineVerification
    late = late_signals(ctx)
    with warnings_on_stderr():
        try:
            chosen = ctx.get_parameter_source("engine") is ParameterSource.COMMANDLINE
            if not chosen and (against or Path(net).is_dir()):
                options["engine"] = None  # the job's own, or the other one
            if against is None:
                _refuse(ctx, ("precision", "against_runtime"), "it needs --against")
                found = api.verify(net, **options)
            else:
                _refuse(ctx, ("no_compensate",), "both engines train the same files as they are")
                given = {key: options[key] for key in options if key != "no_compensate"}
                found = api.verify_engines(
                    net,
                    against=against,
                    against_runtime=against_runtime,
                    precision=precision,
                    **given,
                )
        finally:
            late()
    print_notes(found.file_notes)
    if as_json:
        print_json(found.json())
    else:
        console().print(_view(found))
    found.check()


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """Raise an error for an option that would have no effect."""
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if given and parameter.name in names:
            raise InputError(f"{parameter.opts[0]}: {why}", hint="Leave the option out.")


def _view(found: Verification | EngineVerification) -> RenderableType:
    from caffe_batch import api

    if isinstance(found, api.EngineVerification):
        from caffe_batch.reporting.engines_view import engines_view

        return engines_view(found)
    from caffe_batch.reporting.verify_view import verify_view

    return verify_view(found)
