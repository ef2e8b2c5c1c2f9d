"""``caffe-batch plan``: batch_size x iter_size for an effective batch and a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_batch.cli.options import (
    Command,
    console,
    engine_options,
    json_option,
    load_recipe,
    net_argument,
    net_options,
    print_json,
)

if TYPE_CHECKING:
    from caffe_batch.layers.base import Mode
    from caffe_batch.planning import Plan
    from caffe_batch.rendering.job_files import JobFiles


def plan_options(command: Command) -> Command:
    """The options that describe a plan, for ``plan`` and ``train``."""
    for option in (
        click.option(
            "--train-records",
            type=click.IntRange(min=1),
            help="Records of the training data, where the source can't be counted.",
        ),
        click.option(
            "--reserve",
            metavar="SIZE",
            help="What the CUDA context takes out of the budget.  [default: what `doctor` measured "
            "on this GPU, else 512MiB; 0 in CPU mode]",
        ),
        click.option(
            "--mode",
            type=click.Choice(["gpu", "cpu"]),
            default="gpu",
            show_default=True,
            help="Whose memory the budget is: the GPU's, or the host's in CPU mode.",
        ),
        click.option(
            "--gpus", type=int, default=1, show_default=True, help="GPUs that share each update."
        ),
        click.option(
            "--gpu-memory",
            metavar="SIZE|auto|P%",
            help="The memory that a run may use: 8GiB, 11000MiB, auto (all that is free), 80%.",
        ),
        click.option(
            "--effective-batch",
            type=int,
            metavar="N",
            help="Samples per update that the recipe means.  [default: the files' own]",
        ),
    ):
        command = option(command)
    return net_options(engine_options(command))


@dataclass(frozen=True)
class PlanRequest:
    """What the user asked ``plan`` for, as the options came in."""

    net: str
    solver: str | None
    input_shapes: tuple[str, ...]
    allow_unknown: bool
    allow_unknown_fields: bool
    effective_batch: int | None
    gpu_memory: str | None
    gpus: int
    mode: Mode
    engine: str
    half: bool
    reserve: str | None
    train_records: int | None

    def run(
        self, out: Path | None, check: Callable[[Plan], None] = lambda plan: None
    ) -> tuple[Plan, JobFiles | None]:
        """Plans, and writes the job directory if ``out`` is given and ``check`` doesn't raise."""
        from caffe_batch.errors import InputError
        from caffe_batch.memory import Engine, Model
        from caffe_batch.planning import make_plan, parse_budget
        from caffe_batch.planning.records import count_records
        from caffe_batch.rendering.job_files import with_solver, write_job
        from caffe_batch.runtimes.machine import free_gpu_bytes
        from caffe_batch.runtimes.reserve import default_reserve
        from caffe_batch.training.checks import check_solver

        recipe, sources = load_recipe(
            self.net, self.solver, self.input_shapes,
            allow_unknown_fields=self.allow_unknown_fields,
        )  # fmt: skip
        if self.gpu_memory is None:
            raise InputError(
                "how much memory may the run use?",
                hint="Give --gpu-memory 8GiB, or --gpu-memory auto to ask the GPU.",
            )
        if self.reserve is None:
            kept = 0 if self.mode == "cpu" else default_reserve().bytes
            budget = parse_budget(self.gpu_memory, None, free_gpu_bytes, kept)
        else:
            budget = parse_budget(self.gpu_memory, self.reserve, free_gpu_bytes)
        recipe, solver_text = with_solver(
            recipe, sources, self.effective_batch, allow_unknown=self.allow_unknown
        )
        check_solver(recipe.solver, recipe.solver_path)
        engine = Engine(self.engine)
        model = Model(recipe, sources, self.mode, self.allow_unknown, engine, self.gpus, self.half)
        plan = make_plan(
            model,
            budget,
            effective_batch=self.effective_batch,
            train_records=self.train_records or count_records(recipe.train, sources),
        )
        check(plan)
        if recipe.solver_path is None:
            click.echo(
                "note: no solver was given; templates/solver.prototxt.j2 makes one", err=True
            )
        if out is None:
            return plan, None
        return plan, write_job(plan, recipe, solver_text, sources, out)


@click.command()
@net_argument
@plan_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the job there.",
)
@json_option
def plan(out: Path | None, as_json: bool, **options: Any) -> None:
    """Find the batch_size x iter_size that fits a memory budget.

    NET is a net prototxt, a solver (then its nets are followed) or the name of a template. The
    largest batch_size is chosen whose predicted memory fits and that divides the effective batch
    exactly over the GPUs. --out DIR writes solver.prototxt, net.prototxt and plan.json there, and
    `caffe-batch train DIR` runs them.
    """
    found, files = PlanRequest(**options).run(out)
    if as_json:
        print_json({**found.json(), "files": files.json() if files else {}})
        return
    from caffe_batch.reporting.plan_view import plan_view

    terminal = console()
    terminal.print(plan_view(found))
    if files is None:
        terminal.print("\nNothing is written without --out DIR.")
    else:
        where = files.directory
        terminal.print(f"\nWritten to {where}\nRun it: caffe-batch train {where}", soft_wrap=True)
