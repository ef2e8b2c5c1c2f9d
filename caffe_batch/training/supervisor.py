"""Trains a job directory: decides where to begin, runs a worker, keeps the record."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import read_net
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training.checks import check_accumulates
from caffe_batch.training.data_position import FROM_FIRST_RECORD, data_start
from caffe_batch.training.ending import HINTS, Ending, EndReason, last_lines
from caffe_batch.training.events import Built, SnapshotTaken, Started
from caffe_batch.training.job import Attempt, JobDirectory, JobRecord, JobState, PlanFacts
from caffe_batch.training.learning_rate import learning_rate
from caffe_batch.training.memory_meter import MemoryMeter
from caffe_batch.training.metrics import MetricsFile, NetTestMetrics, last_scores, rewind
from caffe_batch.training.phases import TrainingPhase, phase_at, read_phases
from caffe_batch.training.process import WORKER, SignalRelay, WorkerProcess, forwarded_signals
from caffe_batch.training.progress import Progress
from caffe_batch.training.snapshots import Snapshot, list_snapshots
from caffe_batch.training.start import starting_point
from caffe_batch.training.tracker import Tracker

#: How often the log is read and the observer is called, in seconds.
TICK_S = 0.2

#: metrics.jsonl gets about so many loss records, however long the run is.
_RECORDS = 10_000

#: Caffe's log goes on in a new file when the present one has this size.
LOG_BYTES = 32 * 1024**2

#: Whichever BLAS Caffe was built with, one of these limits its threads.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")

Observer = Callable[[Progress], None]


class Device(str, Enum):
    """Where to train; AUTO takes the GPU where the runtime and the machine have one."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        device: Where.
        gpu: Number of the GPU, or None for the solver's device_id.
        threads: CPU threads of the BLAS. One is the fastest for small nets (LeNet on two cores
            takes 10 to 30 % longer with two) and gives the same numbers on every machine; large
            nets in CPU mode gain from more.
        restart: Throw away an earlier run and start from update 0.
        noise_scale: Measure the gradients of the micro-batches on the way, for the noise scale:
            lines of metrics.jsonl. It takes about 2 % of the time.
        weights: .caffemodel files that update 0 begins with, loaded one after the other.
        snapshot: The solverstate of another run to go on from; its weights lie beside it.
    """

    device: Device = Device.AUTO
    gpu: int | None = None
    threads: int = 1
    restart: bool = False
    noise_scale: bool = False
    weights: tuple[Path, ...] = ()
    snapshot: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How ``train`` ended; failures are raised instead.

    Attributes:
        state: FINISHED or INTERRUPTED.
        update, updates: Updates done, and to do in all.
        scores: Outputs of the last test.
        ran: False if the job had been finished before.
    """

    state: JobState
    update: int
    updates: int
    scores: tuple[NetTestMetrics, ...]
    ran: bool = True


def train(
    job: JobDirectory,
    runtime: Runtime,
    options: Options | None = None,
    observer: Observer = lambda progress: None,
    *,
    script: Path = WORKER,
    relay: SignalRelay | None = None,
) -> Outcome:
    """Train a planned directory to its end, from its newest snapshot if there is one.

    A plan with several phases has a solver for each; their workers run one after another, each
    from the snapshot that the one before has ended with.

    In the main thread, SIGINT, SIGTERM and SIGUSR1 make the worker take a snapshot and stop; a
    SIGINT after that kills it. SIGHUP makes it take a snapshot and go on.

    Args:
        job: A directory that ``plan`` has written.
        runtime: The Python with caffe to train on.
        options: How to train.
        observer: Called about five times a second with the progress.
        script: The worker.
        relay: Whose ``stop`` another thread may call to end the training as a signal does; one of
            its own if None.

    Raises:
        InputError: The directory or the options are no base for training.
        JobBusyError: Another ``train`` runs in the directory.
        TrainingError: Caffe ended before the last update; the message has its reason, the last
            lines of its log and where the log is.
    """
    options = options or Options()
    plan = job.read_plan()
    _check_gpus(job, plan)
    phases = read_phases(plan)
    updates = phases[-1].last_update
    if options.noise_scale:
        check_accumulates(max(phase.solver.iter_size for phase in phases))
    with job.lock() as lock:
        if options.restart:
            job.clear_results()
        before = job.read_record()
        if before and before.state is JobState.FINISHED and before.updates_done >= updates:
            scores = last_scores(job.metrics)
            return Outcome(JobState.FINISHED, before.updates_done, updates, scores, False)
        job.snapshots.mkdir(exist_ok=True)
        run = _Run(job, plan, phases, before, runtime, options)
        ending = run.carry_out(observer, script, lock, relay or SignalRelay())
    return run.outcome(ending)


class _Run:
    """One call of ``train`` on a job that isn't finished."""

    def __init__(
        self,
        job: JobDirectory,
        plan: PlanFacts,
        phases: Sequence[TrainingPhase],
        before: JobRecord | None,
        runtime: Runtime,
        options: Options,
    ) -> None:
        self._job, self._plan, self._phases = job, plan, phases
        self._runtime, self._options = runtime, options
        self._attempts = before.attempts if before else ()
        self._log_tail: Sequence[str] = ()
        self._updates = phases[-1].last_update
        usable = [s for s in list_snapshots(job.snapshots) if s.update <= self._updates]
        self._start = starting_point(options.weights, options.snapshot, before)
        self._resume = usable[-1] if usable else self._start.snapshot(self._updates)
        self._device = options.device
        self._directory = plan.working_directory
        self._notes = []
        if self._resume:
            self._notes.append(_resume_note(self._resume))
        elif before:
            self._notes.append("The run before left no snapshot: starting from update 0 again.")
        if self._start.weights and not self._resume:
            self._notes.append(f"Starting with the weights of {', '.join(self._start.weights)}.")
        if not self._directory.is_dir():
            self._notes.append(
                f"{self._directory}, where the plan was made, is gone: relative paths in the "
                f"net start at {job.path}."
            )
            self._directory = job.path

        if options.device is Device.AUTO and plan.cpu_mode:
            self._device = Device.CPU
            self._notes.append("Training on the CPU: the plan is for Caffe's CPU mode.")

    def carry_out(self, observer: Observer, script: Path, lock: int, relay: SignalRelay) -> Ending:
        """Run the phases to the end, a worker each; job.json tells how far it is."""
        done = self._resume.update if self._resume else 0
        first = phase_at(self._phases, done)
        seconds = rewind(self._job.metrics, done, tests_again=first.tests_at(done))
        start = partial(
            WorkerProcess,
            self._runtime,
            log=self._job.log,
            working_directory=self._directory,
            environment=dict.fromkeys(THREAD_VARIABLES, str(self._options.threads)),
            keep_open=(lock,),
            script=script,
        )
        with MetricsFile(self._job.metrics) as metrics, forwarded_signals(relay):
            tracker = Tracker(
                self._phases,
                self._plan.train_records,
                first_update=done,
                seconds_before=seconds,
                metrics=metrics,
            )
            ending = self._run_phase(first, start, relay, tracker, observer)
            for phase in self._phases[first.number :]:
                if ending.reason is not EndReason.FINISHED:
                    break
                ending = self._obstacle(phase, relay) or self._run_phase(
                    phase, start, relay, tracker, observer
                )
        self._write(_STATES.get(ending.reason, JobState.FAILED))
        return ending

    def _obstacle(self, phase: TrainingPhase, relay: SignalRelay) -> Ending | None:
        """Why a phase doesn't follow the one that has finished; None if its snapshot is there."""
        done = phase.first_update
        if relay.stop_requested:
            return Ending(EndReason.INTERRUPTED, f"stopped after update {done}", 0)
        snapshots = {snapshot.update: snapshot for snapshot in list_snapshots(self._job.snapshots)}
        self._resume = snapshots.get(done)
        if self._resume is None:
            return Ending(EndReason.UNKNOWN, f"phase {phase.number - 1} left no snapshot", 0)
        self._notes.append(_resume_note(self._resume))
        return None

    def _run_phase(
        self,
        phase: TrainingPhase,
        start: Callable[[Mapping[str, Any]], WorkerProcess],
        relay: SignalRelay,
        tracker: Tracker,
        observer: Observer,
    ) -> Ending:
        """Run the worker of a phase to its end, whatever that is."""
        if len(self._phases) > 1:
            rate = learning_rate(phase.solver, phase.first_update)
            self._notes.append(
                f"Phase {phase.number} of {len(self._phases)}, up to update {phase.last_update}: "
                f"effective batch {phase.effective_batch}, learning rate {rate:.4g}."
            )
        settings = {**self._worker_settings(phase), **self._data_settings()}
        tracker.note(*self._notes)
        worker = start(settings)
        try:
            relay.attend(worker)
            self._attempts += (self._new_attempt(phase, worker.pid),)
            self._notes = []
            self._write(JobState.RUNNING)
            ending = self._follow(worker, tracker, observer)
        finally:
            worker.end()
            relay.attend(None)
        self._log_tail = worker.log_tail
        self._amend(ended=_now(), ending=ending.reason.value, detail=ending.detail)
        return ending

    def outcome(self, ending: Ending) -> Outcome:
        """The outcome of a run that is over.

        Raises:
            InputError: What was asked for is not possible.
            TrainingError: It failed.
        """
        state = _STATES.get(ending.reason)
        update, updates = self._attempts[-1].last_update, self._updates
        if state is not None:
            return Outcome(state, update, updates, last_scores(self._job.metrics))
        if ending.reason is EndReason.REFUSED:
            on_gpu = self._options.device is Device.GPU
            hint = "--cpu trains on the CPU." if on_gpu else "Give weights of this net."
            raise InputError(ending.detail, hint=hint)
        lines = "".join(f"\n  {line}" for line in last_lines(self._log_tail))
        raise TrainingError(
            f"Caffe stopped at update {update} of {updates}: {ending.reason.value}: "
            f"{ending.detail}\nThe last lines of {self._job.log}:{lines}",
            hint=HINTS.get(ending.reason),
        )

    def _follow(self, worker: WorkerProcess, tracker: Tracker, observer: Observer) -> Ending:
        meter = MemoryMeter(worker.pid)
        running = True
        while running:
            running = worker.running()  # asked first, so that its last words are still heard
            for event in worker.listen(TICK_S if running else 0):
                tracker.handle(event)
                self._amend(last_update=tracker.update)
                if isinstance(event, Started):
                    self._amend(
                        caffe_version=event.caffe_version,
                        python_version=event.python_version,
                        device=event.device,
                    )
                if isinstance(event, (Started, Built)):
                    self._amend(choices=(*self._attempts[-1].choices, *event.choices))
                if isinstance(event, (Started, Built, SnapshotTaken)):
                    self._write(JobState.RUNNING)
            observer(self._with_memory(tracker.progress(), meter))
        return worker.ending()

    def _with_memory(self, progress: Progress, meter: MemoryMeter) -> Progress:
        device = self._attempts[-1].device
        if device is None:
            return progress
        predicted = self._plan.predicted_on(device)
        return replace(progress, predicted_bytes=predicted, used_bytes=meter.read(device))

    def _worker_settings(self, phase: TrainingPhase) -> dict[str, Any]:
        return {
            "solver": str(phase.path),
            "worker_solver": str(self._job.worker_solver),
            "job": str(self._job.path),
            "snapshots": str(self._job.snapshots),
            "resume": str(self._resume.state) if self._resume else None,
            "resume_copy": str(self._job.worker_state),
            "weights": list(self._start.weights),
            "log": str(self._job.log),
            "log_bytes": LOG_BYTES,
            "device": self._device.value,
            "gpu": self._options.gpu,
            "record_every": -(-self._updates // _RECORDS),
            "frozen": self._frozen(phase) if self._options.noise_scale else None,
        }

    def _data_settings(self) -> Mapping[str, object]:
        """Where the worker's data begins; what can't be as it was is noted."""
        if not self._resume:
            return FROM_FIRST_RECORD
        found = data_start(self._phases, self._resume.update, Sources((self._directory,)))
        if self._resume.update:
            self._notes += found.notes
        return found.settings(self._job.worker_nets)

    def _frozen(self, phase: TrainingPhase) -> list[tuple[str, int]] | None:
        """The parameters that don't learn; None where a phase has no micro-batches to compare."""
        if phase.solver.iter_size < 2:
            return None
        net = read_net(self._job.net, allow_unknown_fields=True)
        state = net_state("TRAIN", net, phase.solver.train_state)
        return NetFile(net, self._job.net, state).frozen_parameters()

    def _new_attempt(self, phase: TrainingPhase, pid: int) -> Attempt:
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
            phase=phase.number,
        )

    def _amend(self, **changes: Any) -> None:
        """Change what the record says of the last attempt."""
        *earlier, last = self._attempts
        self._attempts = (*earlier, replace(last, **changes))

    def _write(self, state: JobState) -> None:
        seed = self._phases[0].solver.random_seed
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
            )
        )


_STATES = {
    EndReason.FINISHED: JobState.FINISHED,
    EndReason.INTERRUPTED: JobState.INTERRUPTED,
}


def _resume_note(snapshot: Snapshot) -> str:
    return f"Going on from update {snapshot.update} ({snapshot.state.name})."


def _check_gpus(job: JobDirectory, plan: PlanFacts) -> None:
    if plan.gpus > 1:
        raise InputError(
            f"{job.plan}: the plan is for {plan.gpus} GPUs, and train uses one",
            hint="Plan with --gpus 1: the effective batch stays, iter_size grows.",
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
