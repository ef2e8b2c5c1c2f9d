"""One try to finish a job: decides where to start, runs its workers, keeps the record."""

from __future__ import annotations

import platform
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from caffe_batch import __version__, engines
from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import Built, LogEvent, SnapshotTaken, Started, WorkerEvent
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.engines.work import DataStart, TrainingRequest, Work
from caffe_batch.errors import InputError
from caffe_batch.jobs.best import Metric, check_tested
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.job_recipe import job_recipe
from caffe_batch.jobs.metrics import MetricsFile, last_scores, read_metrics, rewind
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import Attempt, JobRecord, JobState
from caffe_batch.jobs.stages import TrainingStage, read_stages, stage_at
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.planning.precision import Precision
from caffe_batch.prototxt import read_net
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.machine import cuda_gpus
from caffe_batch.solver.learning_rate import learning_rate
from caffe_batch.training.checks import (
    check_accumulates,
    check_counts_samples,
    check_measures_alone,
    check_precision,
    check_ranks,
    missing_files,
)
from caffe_batch.training.culprits import with_culprits
from caffe_batch.training.kill_watch import KillWatch
from caffe_batch.training.memory_meter import MemoryMeter
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import STATES, Outcome, failure, record_lost
from caffe_batch.training.places import job_places
from caffe_batch.training.process import SignalRelay, WorkerProcess
from caffe_batch.training.progress import Observer, Progress, RunFold
from caffe_batch.training.restart import log_to_show, what_is_next
from caffe_batch.training.snapshot_keeper import BestTest, SnapshotKeeper
from caffe_batch.training.stall import StallWatch
from caffe_batch.training.start import starting_point
from caffe_batch.training.tracker import Tracker

#: How often the log is read and the observer is called, in seconds.
TICK_S = 0.2

#: About how many loss records metrics.jsonl gets, no matter how long the run is.
_RECORDS = 10_000

#: The log continues in a new file when the current one reaches this size.
LOG_BYTES = 32 * 1024**2


#: Seconds after which a rank that doesn't answer counts as lost, unless a stall timeout is given.
PATIENCE_S = 60.0

#: Seconds that the ranks then have to end by themselves.
RANKS_END_S = 30.0


class Run:
    """One try to finish a job, with the files and the snapshots as they are.

    Args:
        job: The directory; its lock is held.
        runtime: The Python that the engine runs in.
        options: How to train.
        relay: What signals have asked for.
        notes: What the user should know about this try.
        earlier: The notes of earlier tries.
        records: How many records each source has.
    """

    def __init__(
        self,
        job: JobDirectory,
        runtime: Runtime,
        options: Options,
        relay: SignalRelay,
        notes: Sequence[str],
        earlier: tuple[str, ...],
        records: Mapping[str, int] | None = None,
    ) -> None:
        plan, stages = read_job(job, options)
        self._job, self._plan, self._stages, self._before = job, plan, stages, job.read_record()
        self._runtime, self._options, self._relay = runtime, options, relay
        self._engine = engines.find(engine_name(plan, self._before, options))
        self._precision = precision_of(plan, self._engine, options)
        self._attempts = self._before.attempts if self._before else ()
        self._log_tail: Sequence[str] = ()
        self._updates = stages[-1].last_update
        self._resume: Snapshot | None = None
        self._snapshots = self._engine.snapshots
        self._metric = self._kept_by()
        self._keeper = SnapshotKeeper(
            self._snapshots,
            job.snapshots,
            options.keep_last,
            options.keep_every,
            job.previous.forget,
            None if self._metric is None else self._best_so_far(self._metric),
        )
        self._device = options.device
        self._directory = plan.working_directory
        self._notes, self._records = list(notes), records
        self._start = starting_point(
            options.weights,
            options.snapshot,
            self._before,
            has_snapshots=bool(self._snapshots.list_snapshots(job.snapshots)),
        )
        #: What the user should know about all tries so far.
        self.all_notes = earlier

    def _kept_by(self) -> Metric | None:
        """By what the best snapshot is kept: as asked for, or as in the run so far."""
        before = self._before.keep_best if self._before else None
        metric = self._options.keep_best or (Metric.parse(before) if before else None)
        return None if metric is None or metric.is_none else metric

    def _best_so_far(self, metric: Metric) -> BestTest:
        """The best test before this run, unless it starts again.

        Raises:
            InputError: The tests have no such output.
        """
        recipe = job_recipe(self._job, self._stages[-1].path, self._stages[-1].rules)
        check_tested(recipe, metric)
        best, file = BestTest(metric), self._job.metrics
        snapshots = self._snapshots.list_snapshots(self._job.snapshots)
        if file.is_file():
            best.continue_from(read_metrics(file), {each.update for each in snapshots})
        return best

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return has_finished(self._before, self._stages)

    @property
    def last_attempt(self) -> Attempt:
        """The worker that ran last."""
        return self._attempts[-1]

    def outcome_before(self) -> Outcome:
        """The outcome of a job that was already finished."""
        done = self._before.updates_done if self._before else 0
        scores = last_scores(self._job.metrics)
        return Outcome(JobState.FINISHED, done, self._updates, scores, False)

    def _prepare(self) -> None:
        """Find where to continue, and on which device."""
        job, plan = self._job, self._plan
        job.snapshots.mkdir(exist_ok=True)
        self._snapshots.finish_pruning(job.snapshots)
        self._resume, aside = self._snapshots.newest_whole(job.snapshots, self._updates)
        self._notes += aside
        self._resume = self._resume or self._start.snapshot(self._updates, self._snapshots)
        if self._resume:
            self._notes.append(_resume_note(self._resume))
        elif self._before:
            self._notes.append("The previous run left no snapshot: starting again from update 0.")
        self._notes += [*self._about_the_engine(), *self._about_the_precision()]
        if self._metric and not self._options.keep_best:
            self._notes.append(
                f"The best snapshot by {self._metric} is still kept; --keep-best none ends that."
            )
        if self._start.weights and not self._resume:
            self._notes.append(f"Starting with the weights of {', '.join(self._start.weights)}.")
        if not self._directory.is_dir():
            self._notes.append(
                f"{self._directory}, where the plan was made, is gone: relative paths in the "
                f"net start at {job.path}."
            )
            self._directory = job.path
        if self._device is None and plan.cpu_mode:
            self._device = Device.CPU
            self._notes.append("Training on the CPU: the plan is for CPU mode.")

    def _about_the_engine(self) -> Iterator[str]:
        """What a change of engine means."""
        before = self._attempts[-1].engine if self._attempts else self._plan.engine
        title = self._engine.title
        if before != self._engine.name and self._attempts:
            yield f"{title} continues where {engines.find(before).title} stopped."
        if self._plan.engine != self._engine.name and before != self._engine.name:
            planned = engines.find(self._plan.engine).title
            yield (
                f"The plan is for {planned}, and its memory figures are {planned}'s; if the "
                f"batch doesn't fit with {title}, it continues with the next smaller split."
            )

    def _about_the_precision(self) -> Iterator[str]:
        """What a precision other than the plan's, or than the run's so far, means."""
        planned, now = self._plan.precision, self._precision
        if now is not planned and now is Precision.FLOAT32:
            yield f"The plan is for {planned.value}; {self._engine.title} computes in float32."
        elif now is not planned:
            yield (
                f"Different: the plan is for {planned.value}, and this run computes in "
                f"{now.value}. Each factor of a product is rounded, with a relative error of up to "
                f"{now.rounding:.0e}."
            )
        before = self._attempts[-1].precision if self._attempts else now
        if before is not now:
            yield f"Until now the run computed in {before.value}; it continues in {now.value}."

    def carry_out(self, observer: Observer, script: Path | None, lock: int) -> Ending:
        """Run the stages to the end, one worker for each; job.json records the progress.

        Args:
            observer: Called with the progress.
            script: Runs instead of the engine's own, if given.
            lock: The descriptor that holds the directory; the workers inherit it.
        """
        self._prepare()
        done = self._resume.update if self._resume else 0
        first = stage_at(self._stages, done)
        kept = rewind(self._job.metrics, done, tests_again=first.tests_at(done))
        begun = self._attempts[0].first_update if self._attempts else done
        self._notes += kept.notes(begun, done)
        before = read_metrics(self._job.metrics) if self._job.metrics.is_file() else ()
        chance = self._plan.chance_loss
        fold = RunFold(self._stages, self._plan.train_records, begun, before, chance)
        places = partial(job_places, self._job, self._plan, self._directory, self._start)

        def start(work: Work) -> WorkerProcess:
            return WorkerProcess(
                self._runtime,
                self._engine,
                replace(work, script=script or work.script),
                places,
                log=self._job.log,
                working_directory=self._directory,
                keep_open=(lock,),
            )

        with MetricsFile(self._job.metrics) as metrics:
            tracker = Tracker(
                self._stages,
                self._plan.train_records,
                first_update=done,
                seconds_before=kept.seconds,
                fold=fold,
                metrics=metrics,
            )
            tracker.note(*self.all_notes)
            ending = self._run_stage(first, start, tracker, observer)
            for stage in self._stages[first.number :]:
                if ending.reason is not EndReason.FINISHED:
                    break
                ending = self._obstacle(stage) or self._run_stage(stage, start, tracker, observer)
            self.all_notes = tracker.notes
        if ending.reason in STATES:
            self._keeper.prune()  # by now the log has reported all tests
        return ending

    def close(self, ending: Ending) -> Ending:
        """Note in job.json that the run is over; another ending if that can't be written."""
        return self._recorded(STATES.get(ending.reason, JobState.FAILED), ending)

    def _obstacle(self, stage: TrainingStage) -> Ending | None:
        """Why a stage can't follow the finished one; None if that one's snapshot exists."""
        done = stage.first_update
        if self._relay.stop_requested:
            return Ending(EndReason.INTERRUPTED, f"stopped after update {done}", 0)
        self._resume, _ = self._snapshots.newest_whole(self._job.snapshots, done)
        if self._resume is None or self._resume.update != done:
            return Ending(EndReason.UNKNOWN, f"stage {stage.number - 1} left no snapshot", 0)
        self._notes.append(_resume_note(self._resume))
        return None

    def _run_stage(
        self,
        stage: TrainingStage,
        start: Callable[[Work], WorkerProcess],
        tracker: Tracker,
        observer: Observer,
    ) -> Ending:
        """Run the worker of a stage to its end, whatever that is."""
        if len(self._stages) > 1:
            rate = learning_rate(stage.solver, stage.first_update)
            self._notes.append(
                f"Stage {stage.number} of {len(self._stages)}, up to update {stage.last_update}: "
                f"effective batch {stage.effective_batch}, learning rate {rate:.4g}."
            )
        work = self._engine.training(self._request(stage))
        tracker.note(*self._notes)
        gpu = self._device.gpu if self._device else stage.solver.device_id
        free = None if gpu is None else _free_gpu_bytes(gpu)
        worker = start(work)
        try:
            self._relay.attend(worker)
            self._attempts += (self._new_attempt(stage, worker.pid, free),)
            self._notes = []
            self._write(JobState.RUNNING)
            observer(tracker.progress())
            ending = self._follow(worker, tracker, observer)
        except OSError as error:
            ending = record_lost(error)
        finally:
            worker.end()
            self._relay.attend(None)
        self._log_tail = worker.log_tail
        ending = self._explained(ending, stage)
        self._amend(ended=_now(), ending=ending.reason, detail=ending.detail)
        # The next stage, or another try, may follow.
        return self._recorded(JobState.RUNNING, ending)

    def _recorded(self, state: JobState, ending: Ending) -> Ending:
        """Write job.json at an ending; another ending if it can't be written."""
        try:
            self._write(state)
        except OSError as error:
            return record_lost(error, ending)
        return ending

    def _explained(self, ending: Ending, stage: TrainingStage) -> Ending:
        """An ending, with what the nets and their data reveal about it, if they can be read."""
        try:
            recipe = job_recipe(self._job, stage.path, stage.rules)
        except InputError:
            return ending
        return with_culprits(ending, recipe, Sources((self._directory,)))

    def outcome(self, ending: Ending) -> Outcome:
        """The outcome of a run that is over.

        Raises:
            InputError: What was requested isn't possible.
            TrainingError: It failed.
        """
        state, update = STATES.get(ending.reason), self.last_attempt.last_update
        if state is None:
            number = self.last_attempt.stage - 1
            net, rules = self._plan.stages[number].net, self._stages[number].rules
            failed = ending.reason is EndReason.CHECK_FAILED
            missing = missing_files(net, self._directory, rules) if failed else []
            log = log_to_show(self._job)
            again = what_is_next(self._job).value
            raise failure(
                self._engine, ending, update, self._updates, log, self._log_tail,
                missing=missing, again=again,
            )  # fmt: skip
        return Outcome(state, update, self._updates, last_scores(self._job.metrics))

    def _follow(self, worker: WorkerProcess, tracker: Tracker, observer: Observer) -> Ending:
        watch, meter = self._stall_watch(), MemoryMeter(worker.pid, self._plan.gpus)
        kills, running = KillWatch(worker.pid), True
        while running:
            kills.look()
            running = worker.running()  # checked first, so that its last events are still read
            spoke = False
            for event in worker.listen(TICK_S if running else 0):
                spoke = True
                tracker.handle(event)
                self._amend(last_update=tracker.update)
                try:
                    self._note(event)
                except DamagedSnapshotError as damage:
                    return Ending(EndReason.SNAPSHOT_LOST, damage.message, 0)
                if isinstance(event, Built):
                    watch.begin()
            observer(self._with_memory(tracker.progress(), meter))
            self._amend(
                seen_bytes=meter.peak_bytes, rank_bytes=meter.of_ranks, rank_s=tracker.rank_s
            )
            if watch.look(spoke=spoke):
                worker.kill() if watch.is_hung else worker.stop(signal.SIGTERM)
        ending = watch.judge(kills.judge(worker.ending()))
        return ending if worker.has_spoken else _before_the_start(ending)

    def _stall_watch(self) -> StallWatch:
        """Several ranks watch each other and know which one doesn't answer, so they go first."""
        given_s = self._options.stall_timeout_s
        if given_s is not None and self._plan.gpus > 1:
            given_s += RANKS_END_S
        return StallWatch(given_s)

    def _note(self, event: WorkerEvent | LogEvent) -> None:
        """Update the record and the snapshots with what an event says about them.

        Raises:
            DamagedSnapshotError: A snapshot that was just taken isn't whole.
        """
        self._keeper.handle(event)
        if isinstance(event, Started):
            self._amend(
                engine_version=event.engine_version,
                python_version=event.python_version,
                device=event.device,
            )
        if isinstance(event, (Started, Built)):
            self._amend(choices=(*self._attempts[-1].choices, *event.choices))
        if isinstance(event, (Started, Built, SnapshotTaken)):
            self._write(JobState.RUNNING)

    def _with_memory(self, progress: Progress, meter: MemoryMeter) -> Progress:
        device = self._attempts[-1].device
        if device is None:
            return progress
        used = meter.read(device)
        return progress.with_memory(self._plan, device, used, meter.of_ranks)

    def _request(self, stage: TrainingStage) -> TrainingRequest:
        return TrainingRequest(
            job=self._job,
            solver=stage.path,
            device=self._device,
            threads=self._options.threads,
            resume=self._resume,
            weights=self._start.weights,
            data=self._data_start(),
            record_every=-(-self._updates // _RECORDS),
            log_bytes=LOG_BYTES,
            frozen=self._frozen(stage) if self._options.noise_scale else None,
            max_loss=self._options.max_loss,
            snapshot_at_tests=self._metric is not None,
            precision=self._precision,
            ranks=self._plan.gpus,
            shared=self._plan.shared,
            patience_s=self._options.stall_timeout_s or PATIENCE_S,
        )

    def _data_start(self) -> DataStart | None:
        """Where the worker's data starts; what can't be restored is noted."""
        if not self._resume:
            return None
        sources = Sources((self._directory,))
        found = self._engine.data_start(self._stages, self._resume, sources)
        if self._resume.update:
            self._notes += found.notes
        return found

    def _frozen(self, stage: TrainingStage) -> list[tuple[str, int]] | None:
        """The parameters that aren't trained; None if a stage has no micro-batches to compare."""
        if stage.solver.iter_size < 2:
            return None
        net = read_net(self._job.net, allow_unknown_fields=True)
        state = net_state("TRAIN", net, stage.solver.train_state)
        return NetFile(net, self._job.net, state).frozen_parameters()

    def _new_attempt(self, stage: TrainingStage, pid: int, free_bytes: int | None) -> Attempt:
        done = self._resume.update if self._resume else 0
        return Attempt(
            number=len(self._attempts) + 1,
            started=_now(),
            runtime=self._runtime.name,
            pid=pid,
            threads=self._options.threads,
            working_directory=str(self._directory),
            resumed_from=str(self._resume.state) if self._resume else None,
            first_update=done,
            last_update=done,
            choices=tuple(self._notes),
            stage=stage.number,
            engine=self._engine.name,
            precision=self._precision,
            batch_size=stage.batch_size,
            iter_size=stage.solver.iter_size,
            predicted_bytes=self._plan.predicted_peak_bytes,
            free_bytes=free_bytes,
            records=self._records,
        )

    def _amend(self, **changes: Any) -> None:
        """Change what the record says about the last attempt."""
        *earlier, last = self._attempts
        self._attempts = (*earlier, replace(last, **changes))

    def _write(self, state: JobState) -> None:
        seed = self._stages[0].solver.random_seed
        self._job.write_record(
            JobRecord(
                state=state,
                updates=self._updates,
                updates_done=self._attempts[-1].last_update,
                host=platform.node(),
                caffe_batch_version=__version__,
                seed=seed if seed >= 0 else None,
                attempts=self._attempts,
                weights=self._start.weights,
                initial_state=self._start.state,
                keep_best=None if self._metric is None else str(self._metric),
                more=self._before.more if self._before else {},
            )
        )


def has_finished(record: JobRecord | None, stages: Sequence[TrainingStage]) -> bool:
    """Whether a run has done all updates of its stages."""
    return (
        record is not None
        and record.state is JobState.FINISHED
        and record.updates_done >= stages[-1].last_update
    )


def read_job(job: JobDirectory, options: Options) -> tuple[PlanFile, tuple[TrainingStage, ...]]:
    """The plan of a job and its stages, checked for what training requires.

    Raises:
        InputError: They, or the options, don't allow a training.
    """
    plan = job.read_plan()
    job.check_formats()
    engine = engines.find(engine_name(plan, job.read_record(), options))
    check_ranks(plan.gpus, engine)
    check_precision(engine, precision_of(plan, engine, options))
    stages = read_stages(plan)
    if options.noise_scale:
        check_measures_alone(plan.gpus)
        check_counts_samples(plan.batch_size)
        check_accumulates(max(stage.solver.iter_size for stage in stages))
    return plan, stages


def engine_name(plan: PlanFile, before: JobRecord | None, options: Options) -> str:
    """Name of the engine that trains: the one asked for, or that of the run that continues."""
    last = before.attempts[-1].engine if before and before.attempts else plan.engine
    return options.engine or last


def precision_of(plan: PlanFile, engine: Engine, options: Options) -> Precision:
    """The precision asked for, or else the plan's if the engine has it."""
    planned = plan.precision if plan.precision in engine.precisions else Precision.FLOAT32
    return options.precision or planned


def _before_the_start(ending: Ending) -> Ending:
    """An ending before the engine was loaded: nothing that a smaller split or the net would change.

    Args:
        ending: The ending of a worker that has sent no event.
    """
    memory = ending.reason in (EndReason.GPU_MEMORY, EndReason.HOST_MEMORY)
    if memory or ending.reason is EndReason.PYTHON_ERROR:
        return replace(ending, reason=EndReason.NOT_STARTED)
    return ending


def _resume_note(snapshot: Snapshot) -> str:
    return f"Continuing from update {snapshot.update} ({snapshot.state.name})."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _free_gpu_bytes(number: int) -> int | None:
    devices = cuda_gpus().devices
    return devices[number].free_bytes if number < len(devices) else None
