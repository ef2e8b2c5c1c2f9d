"""Trains several strategies with several seeds on real Caffe, and collects the scores.

Every training is a job directory of its own, ``DIR/runs/NAME/seed-N``: one that has finished isn't
run again, and one that was interrupted continues from its newest snapshot. Several may run at once.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from caffe_batch.errors import DoesNotFitError, InputError, TrainingError, did_you_mean
from caffe_batch.experiments.standings import (
    Comparison,
    SeedRun,
    Standing,
    output_names,
    read_run,
    read_tests,
)
from caffe_batch.jobs.compare_file import read_comparison, write_comparison
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_copy import copy_job
from caffe_batch.jobs.record import JobState
from caffe_batch.jobs.strategy_files import StrategyFacts, read_strategies
from caffe_batch.prototxt import read_solver
from caffe_batch.runtimes.base import Runtime
from caffe_batch.schema.caffe_pb2 import SolverParameter
from caffe_batch.training.options import Options
from caffe_batch.training.process import SignalRelay, forwarded_signals
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train


@dataclass(frozen=True)
class CompareOptions:
    """How to compare.

    Attributes:
        names: The strategies to train; all that are possible if empty.
        seeds: The random_seed of each training of a strategy.
        jobs: Trainings at once; on a GPU each needs the memory of one.
        training: How each is trained.
    """

    names: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    jobs: int = 1
    training: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Training:
    """One training to run: a strategy, a seed, and the directory of its job."""

    name: str
    seed: int
    job: JobDirectory


class CompareObserver(Protocol):
    """Is called as the trainings go on, from several threads."""

    def progress(self, training: Training, progress: Progress) -> None:
        """Called about five times a second for each training that runs."""

    def ended(self, training: Training, run: SeedRun) -> None:
        """Called when a training has ended, also for one that ended in an earlier call."""


def compare(
    directory: Path, runtime: Runtime, options: CompareOptions, observer: CompareObserver
) -> Comparison:
    """Train the strategies of a directory that ``strategies`` has written, and compare them.

    The comparison is also written to the directory's compare.json. A training that doesn't fit the
    memory, is refused, or fails stops only itself: it is listed with the reason, and the next call
    tries it again.

    In the main thread, SIGINT and SIGTERM make every training take a snapshot and stop; a second
    signal kills them.

    Args:
        directory: Holds strategies.json.
        runtime: The Python with caffe to train on.
        options: How to compare.
        observer: Called with the progress.

    Raises:
        InputError: No such directory or strategy, a strategy that isn't possible, or a recipe
            without tests.
        JobBusyError: Another process is training in one of the directories.
        KeyboardInterrupt: A signal asked it to stop, and every training has stopped.
    """
    strategies, before = read_strategies(directory), read_comparison(directory)
    ways = _chosen(strategies.ways, options.names)
    _check_recipe(directory, ways)
    trainings = [
        Training(way.name, seed, _job(directory, way.name, seed))
        for seed in options.seeds  # every strategy with one seed before any with the next
        for way in ways
    ]
    runs = _run_all(directory, trainings, runtime, options, observer)
    score, loss = _output_names(trainings)
    standings = tuple(
        Standing(way, tuple(runs[way.name, seed] for seed in options.seeds)) for way in ways
    )
    found = Comparison(score, loss, options.seeds, options.jobs, strategies.recipe, standings)
    write_comparison(directory, before, found.json())
    return found


def _chosen(ways: Sequence[StrategyFacts], names: Sequence[str]) -> list[StrategyFacts]:
    """The requested strategies, in the order of strategies.json."""
    known = {way.name: way for way in ways}
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no strategy {name!r}",
                hint=did_you_mean(name, list(known)) or f"There are {', '.join(known)}.",
            )
        if not known[name].possible:
            raise InputError(
                f"the strategy {name!r} is not possible here: {known[name].why_not}",
                hint="Leave it out.",
            )
    chosen = [way for way in ways if way.possible and (not names or way.name in names)]
    if not chosen:
        raise InputError("no strategy is possible here", hint="Allow more memory.")
    return chosen


def _check_recipe(directory: Path, ways: Sequence[StrategyFacts]) -> None:
    """Refuses a recipe without tests, as the first strategy that can be read has it."""
    for way in ways:
        try:
            solver = read_solver(
                JobDirectory(directory / way.name).solver, allow_unknown_fields=True
            )
        except (InputError, OSError):
            continue  # it fails by itself, and the others go on
        check_tests(solver)
        return


def check_tests(solver: SolverParameter) -> None:
    """Refuse a recipe without tests.

    Raises:
        InputError: The recipe has no tests.
    """
    if not solver.test_iter or solver.test_interval < 1:
        raise InputError(
            "the recipe has no tests, so there is nothing to compare",
            hint="Give the solver a test_iter and a test_interval, and the net a TEST phase.",
        )


def _job(directory: Path, name: str, seed: int) -> JobDirectory:
    """The job of a training, which may not exist yet.

    Raises:
        InputError: It would lie outside the directory of the comparison, by a link.
    """
    job = JobDirectory(directory / "runs" / name / f"seed-{seed}")
    if not job.path.is_relative_to(directory.resolve()):
        raise InputError(
            f"{job.path} is not in {directory}, where the trainings belong: a link leads there",
            hint="Remove the link.",
        )
    return job


def _plan(directory: Path, training: Training) -> None:
    """Write the job of a training unless it exists.

    Raises:
        InputError: The strategy can't be read.
    """
    if not training.job.is_planned():
        copy_job(directory / training.name, training.job.path, training.seed)


def _read(directory: Path, training: Training, failure: str) -> SeedRun:
    """What a training that has ended came to; one whose files can't be read has failed."""
    try:
        return read_run(training.job, directory, training.seed, failure)
    except InputError as error:
        inside = str(training.job.path.relative_to(directory.resolve()))
        return SeedRun(training.seed, inside, (), False, failure or error.message)


def _output_names(trainings: Sequence[Training]) -> tuple[str | None, str | None]:
    """The test outputs to compare: those of the first training that has tests."""
    for training in trainings:
        with suppress(InputError):
            names = output_names(read_tests(training.job))
            if any(names):
                return names
    return None, None


class _Relays(SignalRelay):
    """Passes the signals of this process on to every training."""

    def __init__(self) -> None:
        super().__init__()
        self._each: list[SignalRelay] = []

    def add(self) -> SignalRelay:
        """Add a relay for another training; it is asked to stop if all have been."""
        relay = SignalRelay()
        self._each.append(relay)
        if self.stop_requested:  # checked last: a signal may arrive between any two lines
            relay.stop_requested = True
        return relay

    def stop(self, number: int) -> None:
        """Ask all trainings to stop, and let no other begin."""
        self.stop_requested = True
        for relay in self._each:
            relay.stop(number)

    def snapshot(self, number: int) -> None:
        """Ask all trainings for a snapshot."""
        for relay in self._each:
            relay.snapshot(number)


def _run_all(
    directory: Path,
    trainings: Sequence[Training],
    runtime: Runtime,
    options: CompareOptions,
    observer: CompareObserver,
) -> dict[tuple[str, int], SeedRun]:
    """Run every training; the results by strategy and seed."""
    relays = _Relays()
    runs: dict[tuple[str, int], SeedRun] = {}

    def run(training: Training) -> SeedRun | None:
        """Run a training to its end; None if it was stopped."""
        relay, failure = relays.add(), ""
        if relay.stop_requested:
            return None

        def observe(progress: Progress) -> None:
            observer.progress(training, progress)

        try:
            _plan(directory, training)
            outcome = train(training.job, runtime, options.training, observe, relay=relay)
        except (TrainingError, DoesNotFitError, InputError) as error:
            failure = str(error.message.splitlines()[0])
        else:
            if outcome.state is not JobState.FINISHED:
                return None
        done = _read(directory, training, failure)
        observer.ended(training, done)
        return done

    with forwarded_signals(relays), ThreadPoolExecutor(options.jobs) as pool:
        try:
            waiting = {pool.submit(run, training): training for training in trainings}
            for future in as_completed(waiting):
                done, training = future.result(), waiting[future]
                if done is not None:
                    runs[training.name, training.seed] = done
        except BaseException:
            relays.stop(signal.SIGTERM)
            raise
    if relays.stop_requested:
        raise KeyboardInterrupt
    return runs
