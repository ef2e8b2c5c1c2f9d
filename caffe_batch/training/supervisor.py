"""Trains a job directory to the end, with as many tries as that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from caffe_batch import engines
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training import restart
from caffe_batch.training.beforehand import Beforehand, look_ahead
from caffe_batch.training.checks import check_accumulates, check_gpu
from caffe_batch.training.longer import Lengthened, check_longer, lengthen
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import Outcome, record_lost
from caffe_batch.training.process import SignalRelay, forwarded_signals
from caffe_batch.training.progress import Observer, Progress
from caffe_batch.training.recovery import Recovery
from caffe_batch.training.resplit import planned_split, take_planned_split
from caffe_batch.training.run import Run, engine_name, has_finished, read_job


def _look_away(progress: Progress) -> None:
    """Shows nothing."""


def train(
    job: JobDirectory,
    runtime: Runtime,
    options: Options | None = None,
    observer: Observer = _look_away,
    *,
    script: Path | None = None,
    relay: SignalRelay | None = None,
) -> Outcome:
    """Train a planned directory to its end, from its newest snapshot if there is one.

    A plan with several stages has a solver for each; their workers run one after another, each
    from the snapshot that the previous one ended with.

    A run that fails in a way that can be fixed continues from the newest good snapshot: after an
    out-of-memory, with the next smaller split of the same effective batch; after a divergence (if
    asked for), with a lower rate.

    A restart discards the previous run only once the new run has something to show; one that ends
    without a snapshot leaves the previous run as it was (:mod:`caffe_batch.training.restart`).

    A run that should train for longer and fails before its first update is as long as before
    (:mod:`caffe_batch.training.longer`).

    In the main thread, SIGINT, SIGTERM and SIGUSR1 make the worker take a snapshot and stop; a
    SIGINT after that kills it. SIGHUP makes it take a snapshot and continue.

    Args:
        job: A directory that ``plan`` has written.
        runtime: The Python to train on; it can import the engine that plan.json names.
        options: How to train.
        observer: Called about five times a second with the progress.
        script: Runs instead of the engine's worker, if given.
        relay: Another thread may call its ``stop`` to end the training as a signal does; None for
            a private one.

    Raises:
        InputError: The directory or the options don't allow a training.
        JobBusyError: Another ``train`` is running in the directory.
        DoesNotFitError: Caffe ran out of memory with the smallest split as well.
        TrainingError: Caffe ended before the last update; the message has its reason, the last
            lines of its log and where the log is.
    """
    options = options or Options()
    restart.settle_if_free(job)
    plan, stages = read_job(job, options)  # refuses them before anything is written
    before = None if options.restart else job.read_record()
    engine = engines.find(engine_name(plan, before, options))
    check_gpu(options.device, runtime, engine, plan.gpus)
    relay = relay or SignalRelay()
    found = Beforehand()
    if options.longer:
        check_longer(job, plan, stages, before, options.longer)
    if options.longer or not has_finished(before, stages):
        found = look_ahead(job, plan, stages, before, options, engine, runtime)
    with job.lock() as lock, forwarded_signals(relay):
        restart.settle(job)

        def begin(notes: tuple[str, ...], earlier: tuple[str, ...]) -> Run:
            return Run(job, runtime, begun, relay, notes, earlier, found.records)

        def carry_out(run: Run) -> Ending:
            return run.carry_out(observer, script, lock)

        lengthened: Lengthened | None = None
        try:
            begun = restart.begin(job, options) if options.restart else options
            notes = (*found.notes, *_about_the_split(job, options, goes_on=before is not None))
            if options.longer:
                lengthened = lengthen(job, before, options.longer)
                notes = (*lengthened.notes, *notes)
            outcome = _to_the_end(begin, carry_out, Recovery(job, options), relay, notes)
        except CaffeBatchError as error:
            error.notes = (*error.notes, *restart.settle(job), *_as_before(job, lengthened))
            raise
        except BaseException:
            restart.settle(job)
            _as_before(job, lengthened)
            raise
        return replace(outcome, notes=restart.settle(job))


def _as_before(job: JobDirectory, lengthened: Lengthened | None) -> tuple[str, ...]:
    """After a failure, undo what made a job longer; a sentence if it is as long as before."""
    return lengthened.undo(job) if lengthened else ()


def _about_the_split(job: JobDirectory, options: Options, *, goes_on: bool) -> tuple[str, ...]:
    """Return to the planned split if that is asked for, or else say that it may fit again.

    Args:
        job: The directory; its lock is held.
        options: How to train.
        goes_on: Whether the run continues an earlier one.

    Returns:
        A sentence about it, if there is anything to say.

    Raises:
        InputError: It isn't possible to return to the planned split, or not with these options.
    """
    plan, wanted = job.read_plan(), options.restart or options.try_larger
    try:
        planned = planned_split(job, plan)
    except InputError:  # Caffe itself reports what is wrong with its net
        return ()
    if planned is None:
        same = "The split is the planned one: there is no larger one to try."
        return (same,) if options.try_larger else ()
    if wanted:
        if options.noise_scale:
            check_accumulates(planned.iter_size)
        try:
            changed = take_planned_split(job, plan, planned, options.count)
        except InputError as error:
            if options.try_larger:
                raise
            return (f"It isn't possible to return to the planned split: {error.message}.",)
        return (f"{changed[0].upper()}{changed[1:]}.",)
    if not goes_on:
        return ()
    return (
        f"It was planned with batch_size {planned.batch_size} x iter_size {planned.iter_size} and "
        f"ran out of memory with that. If more is free now, `caffe-batch train {job.path} "
        "--try-larger` returns to it, and falls back by itself if that fails.",
    )


def _to_the_end(
    begin: Callable[[tuple[str, ...], tuple[str, ...]], Run],
    carry_out: Callable[[Run], Ending],
    recovery: Recovery,
    relay: SignalRelay,
    notes: tuple[str, ...],
) -> Outcome:
    """Try until the run has finished, or nothing is left to try.

    Args:
        begin: Makes a try, given the notes on it and on the earlier tries.
        carry_out: Carries one out.
        recovery: Says what is left to try.
        relay: What signals have asked for.
        notes: The notes on the first try.
    """
    earlier: tuple[str, ...] = ()
    while True:
        run = begin(notes, earlier)
        if run.is_finished:
            return run.outcome_before()
        ending = carry_out(run)
        earlier = run.all_notes
        try:
            remedy = None if relay.stop_requested else recovery.remedy(ending, run.last_attempt)
        except OSError as error:
            remedy, ending = None, record_lost(error, ending)
        except BaseException:
            run.close(ending)
            raise
        if remedy is None:
            return run.outcome(run.close(ending))
        notes = (f"{remedy[0].upper()}{remedy[1:]}.",)
