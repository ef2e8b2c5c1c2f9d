"""``caffe-batch train``: trains a planned directory on real Caffe, planning it first if asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from caffe_batch.cli.options import warnings_on_stderr
from caffe_batch.cli.plan_options import plan_options
from caffe_batch.cli.plan_request import PlanRequest
from caffe_batch.cli.train_options import (
    TrainRequest,
    fault_options,
    machine_options,
    start_options,
    view_options,
)
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.planning import Plan
    from caffe_batch.runtimes import Runtime
    from caffe_batch.training import JobDirectory, Outcome
    from caffe_batch.training.progress import Observer


@click.command()
@click.argument("target", type=click.Path(), metavar="DIR|NET")
@plan_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The job directory, when NET is planned first.  [default: NET's name + .job]",
)
@machine_options
@start_options
@fault_options
@view_options
@click.pass_context
def train(ctx: click.Context, /, target: str, out: Path | None, **given: Any) -> None:
    """Train a planned directory on real Caffe.

    DIR is what `caffe-batch plan ... --out DIR` wrote. A run that was interrupted goes on from
    its newest snapshot that is whole, and its data from the record that comes next. One that runs
    out of memory goes on by itself, with the next smaller split of the same effective batch. Given
    a NET and the options of `plan`, it is planned first.

    Ctrl-C takes a snapshot and exits with 130, as SIGTERM and SIGUSR1 do; a second Ctrl-C stops at
    once. SIGHUP takes a snapshot and goes on.
    """
    from caffe_batch import runtimes
    from caffe_batch.training import JobDirectory, JobState

    request = TrainRequest(**{field.name: given.pop(field.name) for field in fields(TrainRequest)})
    request.check()
    job = JobDirectory(target)
    if request.follow:
        from caffe_batch.cli.following import follow

        _refuse_options(ctx, {"target", "follow", "quiet"}, "--follow only looks on")
        follow(job, quiet=request.quiet)
        return
    runtime = runtimes.find(request.spec)
    if job.is_planned():
        allowed = {param.name or "" for param in ctx.command.params} - {*given, "out"}
        hint = "Plan again with `caffe-batch plan ... --out DIR`, or leave the option out."
        _refuse_options(ctx, allowed, f"{job.path} is planned already", hint)
    else:
        job = _plan_first(target, given, out, noise_scale=request.noise_scale)
    if request.detach:
        from caffe_batch.cli.detaching import detach

        detach(job)
    outcome = _run(job, runtime, request)
    if outcome.ran:
        _draw_loss(job)
    _print_outcome(job, outcome, noise_scale=request.noise_scale)
    if outcome.state is JobState.INTERRUPTED:
        sys.exit(130)


def _refuse_options(
    ctx: click.Context, allowed: Iterable[str], why: str, hint: str = "Leave the option out."
) -> None:
    """An option that would have no effect is an error."""
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if given and parameter.name not in allowed:
            raise InputError(f"{parameter.opts[0]}: {why}", hint=hint)


def _plan_first(
    target: str, plan: dict[str, Any], out: Path | None, *, noise_scale: bool
) -> JobDirectory:
    from caffe_batch.training import JobDirectory
    from caffe_batch.training.checks import check_accumulates, check_one_gpu

    if Path(target).is_dir():
        raise InputError(
            f"{target}: there is no plan.json, so this is no job directory",
            hint="Write one with `caffe-batch plan NET ... --out DIR`.",
        )
    job = JobDirectory(out or f"{Path(target).stem}.job")

    def check(plan: Plan) -> None:
        check_one_gpu(plan.gpus, job.plan)
        if noise_scale:
            check_accumulates(max(plan.iter_sizes))

    made, _ = PlanRequest(net=target, **plan).run(job.path, check)
    click.echo(made.summary(), err=True)
    return job


def _run(job: JobDirectory, runtime: Runtime, request: TrainRequest) -> Outcome:
    """Train, and show it."""
    from caffe_batch.reporting.audit_view import audit_warnings
    from caffe_batch.reporting.training_view import LastingConsole, TrainingView
    from caffe_batch.training import Progress
    from caffe_batch.training import train as run

    warnings = audit_warnings(job.read_plan().audit)
    with warnings_on_stderr(), ExitStack() as open_now:
        console = LastingConsole(stderr=True)
        view = TrainingView(console, quiet=request.quiet, warnings=warnings)
        observers: list[Observer] = [open_now.enter_context(view)]
        if request.tensorboard:
            from caffe_batch.reporting.tensorboard import TensorBoardFiles

            observers.append(open_now.enter_context(TensorBoardFiles(job)))

        def observe(progress: Progress) -> None:
            for observer in observers:
                observer(progress)

        return run(job, runtime, request.options(), observe)


def _draw_loss(job: JobDirectory) -> None:
    from caffe_batch.reporting.loss_plot import write_loss_plot

    try:
        title = f"{job.path.name}: {job.read_plan().summary}"
        write_loss_plot(job.metrics, job.loss_plot, title=title)
    except ImportError:
        click.echo("note: loss.png needs matplotlib: pip install 'caffe-batch[plot]'", err=True)
    except InputError as error:
        click.echo(f"note: no loss.png: {error.message}", err=True)


def _print_outcome(job: JobDirectory, outcome: Outcome, *, noise_scale: bool) -> None:
    from caffe_batch.reporting.outcome_view import outcome_lines

    done = f"{outcome.update:,} of {outcome.updates:,} updates"
    if not outcome.ran:
        click.echo(f"Finished already: {done}; --restart trains again from update 0.")
    else:
        click.echo(f"{outcome.state.value.capitalize()}: {done}.")
    for line in outcome_lines(job, outcome.scores, noise_scale=noise_scale):
        click.echo(line)
