"""``compare``: several ways to train, each with several seeds, on real Caffe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.api.arguments import several, whole
from caffe_batch.api.machines import RuntimeName, device_of, find_runtime
from caffe_batch.api.ways import begun, find, strategies_request
from caffe_batch.errors import Call, InputError, Option
from caffe_batch.experiments import standings
from caffe_batch.experiments.compare import CompareObserver, CompareOptions, Training, check_tests
from caffe_batch.experiments.compare import compare as run
from caffe_batch.experiments.standings import SeedRun
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.training import Options, Progress


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Comparison(standings.Comparison):
    """Strategies, compared.

    It has ``standings`` (one per strategy, with its runs), ``score_name``, ``seeds`` and
    ``json()`` of :class:`caffe_batch.experiments.standings.Comparison`, and:

    Attributes:
        directory: Where the trainings, compare.json and compare.png are.
        notes: How the files were found, and why there is no plot if one is missing.
    """

    directory: Path
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ways, seeds = len(self.standings), len(self.seeds)
        return f"<Comparison of {ways} ways with {seeds} seeds in {self.directory}>"


class _Unwatched:
    """An observer that shows nothing."""

    def progress(self, training: Training, progress: Progress) -> None:
        """Nothing is shown."""

    def ended(self, training: Training, run: SeedRun) -> None:
        """Nothing is shown."""


def compare(
    target: str | Path,
    *,
    strategy: str | Iterable[str] = (),
    seeds: int = 5,
    jobs: int = 1,
    out: str | Path | None = None,
    runtime: RuntimeName = None,
    cpu: bool = False,
    gpu: int | None = None,
    threads: int = 1,
    observer: CompareObserver | None = None,
    **options: Any,
) -> Comparison:
    """Train several strategies with several seeds on real Caffe, and compare them.

    When called again, it trains only what hasn't finished. The result is also written to
    compare.json and compare.png in the directory.

    >>> import caffe_batch as cb
    >>> ways = cb.strategies("solver.prototxt", gpu_memory="8GiB")  # doctest: +SKIP
    >>> cb.compare(ways.write("ways"), seeds=3)  # doctest: +SKIP
    <Comparison of 7 ways with 3 seeds in ways>

    Args:
        target: A directory that :meth:`Strategies.write` has written; or a net, whose strategies
            are then written to ``out`` first.
        strategy: Names of the strategies to train; all that are possible if empty.
        seeds: Train each strategy this often, with random_seed 1 to ``seeds``.
        jobs: Trainings at once; on a GPU each needs memory of its own.
        out: Where to put the trainings of a net.
        runtime: The Python with caffe, as :meth:`Job.train` takes it.
        cpu: Train on the CPU even if there is a GPU.
        gpu: Train on this GPU, in CUDA's numbers; None for the solver's device_id.
        threads: CPU threads for the matrix products of each training.
        observer: Called with the progress of each training, from several threads.
        options: The arguments of :func:`strategies`, if ``target`` is a net.

    Raises:
        InputError: No such directory or strategy, a strategy that isn't possible, a recipe without
            tests, or a directory that was begun with other options.
        JobBusyError: Another process is training in one of the directories.
        RuntimeMissingError: There is no such Python with caffe.
        KeyboardInterrupt: A signal asked it to stop, and every training has taken a snapshot.
    """
    number = whole("gpu", gpu, least=0)
    compare_options = CompareOptions(
        names=several(strategy),
        seeds=tuple(range(1, (whole("seeds", seeds) or 1) + 1)),
        jobs=whole("jobs", jobs) or 1,
        training=Options(
            device=device_of(cpu=cpu, gpu=number), threads=whole("threads", threads) or 1
        ),
    )
    found = find_runtime(runtime, options.get("engine") or _engine_of(Path(target)))
    notes: tuple[str, ...] = ()
    if Path(target).is_dir():
        for name in options if out is None else ["out", *options]:
            raise InputError(
                [Option(name), f": {target} holds its strategies already"],
                hint=[
                    "Leave the option out, or give the NET and another ", Option("out", "DIR"), ".",
                ],
            )  # fmt: skip
        directory = Path(target)
    else:
        directory, notes = _written(target, out, gpu, options)
    compared = run(directory, found, compare_options, observer or _Unwatched())
    facts = {field.name: getattr(compared, field.name) for field in fields(compared)}
    picture = directory / "compare.png"
    return Comparison(**facts, directory=directory, notes=(*notes, *_draw(compared, picture)))


def _engine_of(directory: Path) -> str:
    """Name of the engine that the jobs of a directory are planned for.

    It is in the first plan that can be read: a damaged one stops only its own trainings.
    """
    for path in sorted(directory.glob("*/plan.json")):
        with suppress(InputError, OSError):
            return PlanFile.read(path).engine
    return engines.DEFAULT


def _written(
    net: str | Path, out: str | Path | None, gpu: int | None, options: dict[str, Any]
) -> tuple[Path, tuple[str, ...]]:
    """The directory with the strategies of a net, written if it isn't there, and notes."""
    if out is None:
        raise InputError(
            "where do the trainings go?",
            hint=[
                "Give ", Option("out", "DIR"), ", or a directory that ",
                Call("`caffe-batch strategies ... --out`", "strategies(...).write(DIR)"), " wrote.",
            ],
        )  # fmt: skip
    request = strategies_request(net, gpu=gpu, **options)
    if begun(request, Path(out)):
        return Path(out), ()
    ways = find(request, check_tests)
    return ways.write(out), ways.file_notes


def _draw(found: standings.Comparison, picture: Path) -> Iterator[str]:
    """Draw the comparison; yields the reason if it can't be drawn."""
    from caffe_batch.reporting.compare_plot import write_compare_plot
    from caffe_batch.reporting.figures import why_not_drawn

    yield from why_not_drawn(picture.name, lambda: write_compare_plot(found, picture))
