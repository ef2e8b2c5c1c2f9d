"""``caffe-batch compare``: trains several strategies, each with several seeds, on real Caffe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from caffe_batch.cli.late_signals import LateSignals, late_signals
from caffe_batch.cli.options import (
    Command,
    console,
    engine_section,
    json_option,
    output_section,
    print_json,
    print_notes,
    section,
    warnings_on_stderr,
)
from caffe_batch.cli.strategies import strategies_options

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from caffe_batch.experiments.compare import Training
    from caffe_batch.experiments.standings import SeedRun
    from caffe_batch.training import Progress

#: The names of the strategies (WAYS of planning.strategies).
NAMES = (
    "accumulate", "small", "small-linear", "small-sqrt", "small-momentum", "momentum-alone",
    "smaller-input", "grow", "cpu",
)  # fmt: skip


@click.command(cls=Command)
@click.argument("target", type=click.Path(), metavar="DIR|NET")
@strategies_options
@section("Trainings")(
    "--strategy",
    type=click.Choice(NAMES),
    multiple=True,
    help="Train this strategy; may be repeated.  [default: all that are possible]",
)
@section("Trainings")(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="S",
    help="Train each strategy S times, with random_seed 1 to S.",
)
@section("Trainings")(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="J",
    help="Run J trainings at once; on a GPU each needs memory of its own.",
)
@output_section(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to put the trainings of a NET and their results.",
)
@engine_section("--runtime", metavar="RUNTIME", help="The Python with caffe to train on.")
@engine_section("--cpu", is_flag=True, help="Train on the CPU even if there is a GPU.")
@engine_section("--gpu", type=click.IntRange(min=0), metavar="ID", help="Train on this GPU.")
@engine_section(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads for the matrix products of each training.",
)
@json_option
@click.pass_context
def compare(ctx: click.Context, /, target: str, as_json: bool, **options: Any) -> None:
    """Train several strategies with several seeds, and compare them.

    DIR is what `caffe-batch strategies ... --out DIR` has written; given a NET and the options of
    `strategies`, --out DIR is written first. Each strategy sees as many samples as the recipe. The
    test scores, as mean and standard deviation over the seeds, are shown in a table and written to
    DIR/compare.json and DIR/compare.png.

    When run again, it trains only what hasn't finished. Ctrl-C stops every training with a
    snapshot.
    """
    from caffe_batch import api
    from caffe_batch.reporting.compare_view import compare_view

    sources = {ParameterSource.COMMANDLINE}
    if not Path(target).is_dir():  # one that is there has its options already
        sources.add(ParameterSource.ENVIRONMENT)
    given = {
        name: value for name, value in options.items() if ctx.get_parameter_source(name) in sources
    }
    with warnings_on_stderr(), _Display(late_signals(ctx)) as display:
        found = api.compare(target, **given, observer=display)
    print_notes(found.notes)
    if as_json:
        print_json(found.json())
        return
    console().print(compare_view(found))
    click.echo(f"\nfiles: {found.directory}")


class _Display:
    """Shows the trainings on stderr: bars on a terminal, and a line for each that has ended.

    Args:
        late: Told once the first training has begun.
    """

    def __init__(self, late: LateSignals) -> None:
        from rich.progress import Progress as Bar

        from caffe_batch.reporting.console import PlainConsole

        screen = PlainConsole(stderr=True)
        self._late = late
        self._live = screen.is_terminal
        self._bars: Bar = Bar(console=screen, transient=True, disable=not self._live)
        self._tasks: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> _Display:
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()

    def progress(self, training: Training, progress: Progress) -> None:
        """Move the bar of a training."""
        self._late()
        key = training.name, training.seed
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_title(training), total=progress.updates)
        self._bars.update(self._tasks[key], completed=progress.update)

    def ended(self, training: Training, run: SeedRun) -> None:
        """Print the result of a training."""
        from caffe_batch.reporting.compare_view import run_line

        self._late()
        if (training.name, training.seed) in self._tasks:
            self._bars.remove_task(self._tasks.pop((training.name, training.seed)))
        self._bars.console.print(f"{_title(training)}: {run_line(run)}", markup=False)


def _title(training: Training) -> str:
    return f"{training.name}, seed {training.seed}"
