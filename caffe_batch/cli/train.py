"""``caffe-batch train``: trains a planned directory on real Caffe, planning it first if asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from caffe_batch.cli.options import warnings_on_stderr
from caffe_batch.cli.plan_request import PlanRequest, plan_options
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.planning import Plan
    from caffe_batch.training import JobDirectory, Outcome


@click.command()
@click.argument("target", type=click.Path(), metavar="DIR|NET")
@plan_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The job directory, when NET is planned first.  [default: NET's name + .job]",
)
@click.option("--runtime", "spec", metavar="RUNTIME", help="The Python with caffe to train on.")
@click.option("--cpu", is_flag=True, help="Train on the CPU even if there is a GPU.")
@click.option("--gpu", type=click.IntRange(min=0), metavar="ID", help="Train on this GPU.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads of the matrix products; more than one helps large nets only.",
)
@click.option(
    "--noise-scale",
    is_flag=True,
    help="Measure the gradient noise scale on the way, from the micro-batches of some updates.",
)
@click.option("--restart", is_flag=True, help="Throw away an earlier run; start from update 0.")
@click.option("-q", "--quiet", is_flag=True, help="Show notes and the result only.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    target: str,
    out: Path | None,
    spec: str | None,
    cpu: bool,
    gpu: int | None,
    threads: int,
    noise_scale: bool,
    restart: bool,
    quiet: bool,
    **plan: Any,
) -> None:
    """Train a planned directory on real Caffe.

    DIR is what `caffe-batch plan ... --out DIR` wrote. A run that was interrupted goes on from
    its newest snapshot, and its data from the record that comes next. Given a NET and the options
    of `plan`, it is planned first.

    Ctrl-C takes a snapshot and exits with 130, as SIGTERM and SIGUSR1 do; a second Ctrl-C stops at
    once. SIGHUP takes a snapshot and goes on.
    """
    from caffe_batch import runtimes
    from caffe_batch.reporting.training_view import LastingConsole, TrainingView
    from caffe_batch.training import Device, JobDirectory, JobState, Options
    from caffe_batch.training import train as run

    if cpu and gpu is not None:
        raise InputError("--cpu and --gpu exclude each other", hint="Give one of them.")
    runtime = runtimes.find(spec)
    job = JobDirectory(target)
    if job.is_planned():
        _refuse_plan_options(ctx, job, [*plan, "out"])
    else:
        job = _plan_first(target, plan, out, noise_scale=noise_scale)
    device = Device.CPU if cpu else Device.AUTO if gpu is None else Device.GPU
    options = Options(
        device=device, gpu=gpu, threads=threads, restart=restart, noise_scale=noise_scale
    )
    with warnings_on_stderr(), TrainingView(LastingConsole(stderr=True), quiet=quiet) as view:
        outcome = run(job, runtime, options, view)
    if outcome.ran:
        _draw_loss(job)
    _print_outcome(job, outcome, noise_scale=noise_scale)
    if outcome.state is JobState.INTERRUPTED:
        sys.exit(130)


def _refuse_plan_options(ctx: click.Context, job: JobDirectory, names: list[str]) -> None:
    """A planned directory is trained as it is: options that would plan it anew are an error."""
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT
        if given and parameter.name in names:
            raise InputError(
                f"{parameter.opts[0]}: {job.path} is planned already",
                hint="Plan again with `caffe-batch plan ... --out DIR`, or leave the option out.",
            )


def _plan_first(
    target: str, plan: dict[str, Any], out: Path | None, *, noise_scale: bool
) -> JobDirectory:
    from caffe_batch.training import JobDirectory
    from caffe_batch.training.checks import check_accumulates

    if Path(target).is_dir():
        raise InputError(
            f"{target}: there is no plan.json, so this is no job directory",
            hint="Write one with `caffe-batch plan NET ... --out DIR`.",
        )
    job = JobDirectory(out or f"{Path(target).stem}.job")

    def check(plan: Plan) -> None:
        if noise_scale:
            check_accumulates(max(plan.iter_sizes))

    made, _ = PlanRequest(net=target, **plan).run(job.path, check)
    click.echo(made.summary(), err=True)
    return job


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
    from caffe_batch.reporting.training_view import format_scores

    done = f"{outcome.update:,} of {outcome.updates:,} updates"
    if not outcome.ran:
        click.echo(f"Finished already: {done}; --restart trains again from update 0.")
    else:
        click.echo(f"{outcome.state.value.capitalize()}: {done}.")
    if outcome.scores:
        at = outcome.scores[-1].update
        click.echo(f"test:  {format_scores(outcome.scores)} (after update {at:,})")
    if noise_scale:
        _print_noise(job)
    click.echo(f"plan:  {job.read_plan().summary}")
    click.echo(f"files: {job.path}")


def _print_noise(job: JobDirectory) -> None:
    from caffe_batch.reporting.noise_view import training_noise
    from caffe_batch.training.metrics import gradient_metrics

    batch = job.read_plan().effective_batch
    click.echo(f"noise: {training_noise(gradient_metrics(job.metrics), batch)}")
