"""Trains a job directory to its end, whatever has to be tried for that."""

from __future__ import annotations

from pathlib import Path

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training.beforehand import Beforehand, look_ahead
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import Outcome
from caffe_batch.training.process import SignalRelay, forwarded_signals
from caffe_batch.training.progress import Observer, Progress
from caffe_batch.training.recovery import Recovery
from caffe_batch.training.run import Run, has_finished, read_job


def _look_away(progress: Progress) -> None:
    """For a training that nobody watches."""


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
    from the snapshot that the one before has ended with.

    What ends badly and can be mended goes on from the newest good snapshot: out of memory with the
    next smaller split of the same effective batch, a divergence (if asked for) with a lower rate.

    In the main thread, SIGINT, SIGTERM and SIGUSR1 make the worker take a snapshot and stop; a
    SIGINT after that kills it. SIGHUP makes it take a snapshot and go on.

    Args:
        job: A directory that ``plan`` has written.
        runtime: The Python to train on; it can import the engine that plan.json names.
        options: How to train.
        observer: Called about five times a second with the progress.
        script: Runs in place of the engine's worker, if given.
        relay: Whose ``stop`` another thread may call to end the training as a signal does; one of
            its own if None.

    Raises:
        InputError: The directory or the options are no base for training.
        JobBusyError: Another ``train`` runs in the directory.
        DoesNotFitError: Caffe ran out of memory with the smallest split as well.
        TrainingError: Caffe ended before the last update; the message has its reason, the last
            lines of its log and where the log is.
    """
    options = options or Options()
    plan, stages = read_job(job, options)  # refuses them before anything is written
    before = None if options.restart else job.read_record()
    relay = relay or SignalRelay()
    earlier: tuple[str, ...] = ()
    found = Beforehand()
    if not has_finished(before, stages):
        found = look_ahead(job, plan, stages, before, options)
    notes = found.notes
    with job.lock() as lock, forwarded_signals(relay):
        job.finish_rewrite()
        if options.restart:
            job.clear_results()
        recovery = Recovery(job, options)
        while True:
            run = Run(job, runtime, options, relay, notes, earlier, found.records)
            if run.is_finished:
                return run.outcome_before()
            ending = run.carry_out(observer, script, lock)
            earlier = run.all_notes
            try:
                remedy = None if relay.stop_requested else recovery.remedy(ending, run.last_attempt)
            except BaseException:
                run.close(ending)
                raise
            if remedy is None:
                run.close(ending)
                return run.outcome(ending)
            notes = (f"{remedy[0].upper()}{remedy[1:]}.",)
