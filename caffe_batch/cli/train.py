"""``caffe-batch train``: trains a job directory on real Caffe, planning it first if asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from caffe_batch.cli.data_options import extent
from caffe_batch.cli.late_signals import LateSignals, late_signals
from caffe_batch.cli.on_end import OnEnd, after_the_end
from caffe_batch.cli.options import (
    Command,
    output_section,
    print_notes,
    section,
    warnings_on_stderr,
)
from caffe_batch.cli.plan_options import plan_options
from caffe_batch.cli.train_options import (
    RUN_OPTIONS,
    fault_options,
    machine_options,
    start_options,
    view_options,
)
from caffe_batch.errors import CaffeBatchError, InputError, Option
from caffe_batch.terminal import one_line

if TYPE_CHECKING:
    from caffe_batch.api import Job, Outcome


#: The options of ``plan`` that --as-is allows.
AS_IS = ("solver", "allow_unknown_fields", "rules", "fork", "data", "engine")


@click.command(
    cls=Command,
    examples=[
        ("caffe-batch train job", "Train a planned job, or continue it"),
        (
            "caffe-batch train solver.prototxt --effective-batch 256 --gpu-memory 8GiB",
            "Plan, then train",
        ),
        ("caffe-batch train job --detach", "Train in the background"),
        ("caffe-batch train job --follow", "Watch a run in progress"),
    ],
)
@click.argument("target", type=click.Path(), metavar="DIR|NET")
@start_options
@machine_options
@fault_options
@view_options
@plan_options
@output_section(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The job directory, if a NET is planned first.  [default: NET's name + .job]",
)
@section("Start of the run")(
    "--as-is",
    is_flag=True,
    help="Train NET as it is, without a plan: no budget is needed, and no layer need be known.",
)
@click.pass_context
def train(
    ctx: click.Context,
    /,
    target: str,
    out: Path | None,
    as_is: bool,
    runtime: str | None,
    tensorboard: bool,
    follow: bool,
    detach: bool,
    quiet: bool,
    on_end: str | None,
    **given: Any,
) -> None:
    """Train a job directory, on real Caffe or with PyTorch.

    DIR is what `caffe-batch plan ... --out DIR` has written. An interrupted run continues from its
    newest complete snapshot, and reads its data from the next record on. A run that runs out of
    memory continues by itself, with the next smaller split of the same effective batch. `--epochs
    +N` or `--updates +N` trains a planned job for longer. With --engine, a job that has begun
    continues on the other engine, from the newest snapshot of either.

    Given a NET (or a solver) and the options of `plan`, it plans first. With `--as-is` it trains
    the files as they are: supervised, continued and reported in the same way, but without a smaller
    split, epochs, predicted memory and the audit, which need a plan. The module of a Python layer
    must be on PYTHONPATH or in the working directory.

    Ctrl-C takes a snapshot and exits with 130, as do SIGTERM and SIGUSR1; a second Ctrl-C stops at
    once. SIGHUP takes a snapshot and continues. Once the run has ended, well or badly, a signal no
    longer prevents that from being reported.

    The command of --on-end runs last, if a training has begun or there was nothing left to train.
    CAFFE_BATCH_REASON is `finished`, `interrupted`, the last attempt's reason in job.json
    (`diverged`, `out of GPU memory`, ...), or `failed`. What the command prints goes to stderr. If
    it fails, a warning says so, and the exit code stays that of the training.
    """
    from caffe_batch import api

    options = {name: given.pop(name) for name in RUN_OPTIONS}
    options["check_data"] = extent(options["check_data"])
    job = api.Job(target)
    if job.is_planned:
        options["epochs"] = given.pop("epochs")
    api.train_options(**options)  # refuses them before anything is planned
    if follow:
        from caffe_batch.cli.following import follow as look_on

        _refuse_options(ctx, {"target", "follow", "quiet"}, "--follow only watches a run")
        look_on(job, quiet=quiet)
        return
    named = ctx.get_parameter_source("engine") is ParameterSource.COMMANDLINE
    trainer = api.find_trainer(
        runtime,
        given["engine"] if named else None,
        job.last_engine if job.is_planned else given["engine"],
    )
    print_notes(trainer.notes)
    if job.is_planned:
        kept_out = {*given, "out", "as_is"} - {"engine"}
        allowed = {param.name or "" for param in ctx.command.params} - kept_out
        hint = "Plan again with `caffe-batch plan ... --out DIR`, or leave the option out."
        _refuse_options(ctx, allowed, f"{job.path} is planned already", hint)
    else:
        given["engine"] = trainer.engine
        _check_new(ctx, target, given, as_is=as_is)
        api.check_device(trainer.runtime, trainer.engine, cpu=options["cpu"], gpu=options["gpu"])
        first = _as_is if as_is else _plan_first
        job = first(target, given, out, options)
    with _taken_back_if_refused(job):
        if detach:
            from caffe_batch.cli.detaching import detach as go_on_in_background

            go_on_in_background(job.directory)
        late = late_signals(ctx)
        with after_the_end(ctx, on_end, job) as noted:
            outcome = _run(
                job, (late, noted), quiet=quiet, engine=trainer.engine, runtime=trainer.runtime,
                tensorboard=tensorboard, **options,
            )  # fmt: skip
    print_notes(outcome.notes)
    _print_outcome(outcome, noise_scale=options["noise_scale"], metric=options["keep_best"])
    if outcome.state.value == "interrupted":
        sys.exit(130)


def _refuse_options(
    ctx: click.Context, allowed: Iterable[str], why: str, hint: str = "Leave the option out."
) -> None:
    """Raise an error for an option that would have no effect."""
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in allowed:
            raise InputError(f"{parameter.opts[0]}: {why}", hint=hint)


def _check_new(ctx: click.Context, target: str, given: dict[str, Any], *, as_is: bool) -> None:
    """Raise an error for options that only a planned job, or only a plan, can have."""
    if Path(target).is_dir():
        raise InputError(
            f"{target}: there is no plan.json, so this is not a job directory",
            hint="Write one with `caffe-batch plan NET ... --out DIR`.",
        )
    longer = "+" if ctx.params["updates"] else (given["epochs"] or "").lstrip()
    if longer.startswith("+"):
        raise InputError(
            f"--updates and --epochs +N are for a job that is planned already, and {target} is not",
            hint="For a new one --epochs EPOCHS, or max_iter in the solver, says how long it "
            "trains.",
        )
    if as_is:
        params = {param.name or "" for param in ctx.command.params}
        why = "--as-is trains the files as they are, and this option is for a plan"
        _refuse_options(ctx, params - ({*given} - {*AS_IS, "allow_unknown"}), why)


def _as_is(target: str, given: dict[str, Any], out: Path | None, options: dict[str, Any]) -> Job:
    from caffe_batch import api

    with warnings_on_stderr():
        found = api.as_is(target, **{name: given[name] for name in AS_IS})
    print_notes(found.file_notes)
    found.check_trains(noise_scale=options["noise_scale"])
    return found.write(out or f"{Path(target).stem}.job")


def _plan_first(
    target: str, given: dict[str, Any], out: Path | None, options: dict[str, Any]
) -> Job:
    from caffe_batch import api
    from caffe_batch.api.budgets import BudgetMissingError

    try:
        with warnings_on_stderr():
            plan = api.plan(
                target,
                gpu=options["gpu"],
                check_data=options["check_data"],
                precision=options["precision"] or "float32",
                **given,
            )
    except BudgetMissingError as error:
        hint = [*(error.hint_parts or ()), " Or train the files as they are: ",
                Option("as_is", True), "."]  # fmt: skip
        raise InputError(error.message_parts, hint=hint) from error
    print_notes(plan.file_notes)
    plan.check_trains(noise_scale=options["noise_scale"])
    job = plan.write(out or f"{Path(target).stem}.job")
    click.echo(plan.summary(), err=True)
    return job


@contextmanager
def _taken_back_if_refused(job: Job) -> Iterator[None]:
    """Remove the files of a job that was planned here, if its training doesn't begin.

    With --detach that is left to the calling process, which prints what train.log says.
    """
    process = os.getpid()
    try:
        yield
    except BaseException as error:
        goes_on = isinstance(error, SystemExit) and not error.code
        if os.getpid() == process and not goes_on:
            with suppress(CaffeBatchError, OSError):  # the error itself says more
                job.take_back()
        raise


def _run(job: Job, observers: tuple[LateSignals, OnEnd], *, quiet: bool, **options: Any) -> Outcome:
    """Train and show the progress."""
    from caffe_batch.reporting.audit_view import audit_warnings
    from caffe_batch.reporting.console import LastingConsole
    from caffe_batch.reporting.training_view import TrainingView

    warnings = audit_warnings(job.plan.audit)
    view = TrainingView(LastingConsole(stderr=True), quiet=quiet, warnings=warnings)
    with warnings_on_stderr(), view:
        return job.train(**options, observer=(view, *observers))


def _print_outcome(outcome: Outcome, *, noise_scale: bool, metric: str | None) -> None:
    from caffe_batch.reporting.outcome_view import outcome_lines

    done = f"{outcome.update:,} of {outcome.updates:,} updates"
    if not outcome.ran:
        click.echo(f"Finished already: {done}; --restart trains again from update 0.")
    else:
        click.echo(f"{outcome.state.value.capitalize()}: {done}.")
    lines = outcome_lines(
        outcome.job.directory,
        outcome.scores,
        outcome.job.snapshots,
        noise_scale=noise_scale,
        finished=outcome.state.value == "finished",
        metric=metric,
    )
    for line in lines:
        click.echo(one_line(line))
