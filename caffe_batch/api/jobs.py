"""A job directory: train, watch, stop and report it."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caffe_batch import engines, training
from caffe_batch.api.arguments import Files, choice, files, positive, whole
from caffe_batch.api.machines import RuntimeName, counting, device_of, find_trainer
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.errors import Call, InputError, Option, Text, TrainingError
from caffe_batch.jobs.best import Metric
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.metrics import Metrics, read_metrics
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import JobRecord
from caffe_batch.net.data.findings import DataCheck
from caffe_batch.planning.precision import Precision
from caffe_batch.training.following import RunFollower, RunState, Standing, Status
from caffe_batch.training.longer import Longer
from caffe_batch.training.progress import Observer
from caffe_batch.training.restart import settle_if_free

if TYPE_CHECKING:
    from caffe_batch.reporting.report_data import ReportedRun

#: Seconds between two looks at a run in another process.
_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Outcome(training.Outcome):
    """How a training ended; failures are raised instead.

    It has ``state`` (FINISHED or INTERRUPTED), ``update`` and ``updates`` (done, and to do in
    all), ``scores`` (outputs of the last test), ``ran`` (False if it had finished before),
    ``notes`` (anything else worth knowing, such as why there is no plot) and:

    Attributes:
        job: The job that was trained.
    """

    job: Job

    def __repr__(self) -> str:
        scores = "".join(f", {each.output} {each.value:.4g}" for each in self.scores)
        return f"<Outcome {self.state.value}: {self.update:,} of {self.updates:,} updates{scores}>"

    def _repr_html_(self) -> str:
        from caffe_batch.reporting.notebook import outcome_html

        return outcome_html(self, self.job.directory)


class Job:
    """A directory that :meth:`Plan.write` or ``caffe-batch plan --out`` has written.

    >>> from tempfile import TemporaryDirectory
    >>> import caffe_batch as cb
    >>> plan = cb.plan("lenet_digits", gpu_memory="5MiB", reserve=0, input_shape="data=1x8x8")
    >>> with TemporaryDirectory() as folder:
    ...     job = plan.write(f"{folder}/job")
    ...     print(job.status().state.value, job.plan.batch_size, len(job.metrics))
    planned 64 0

    Args:
        path: The directory.

    Attributes:
        directory: The job directory: its file names and their contents.
    """

    def __init__(self, path: str | Path) -> None:
        self.directory = JobDirectory(path)
        self._made: tuple[Path, ...] = ()

    @classmethod
    def _of(cls, written: JobFiles) -> Job:
        """The job whose files have just been written."""
        job = cls(written.directory)
        job._made = written.made
        return job

    def take_back(self) -> None:
        """Remove what :meth:`Plan.write` made, if nothing was trained since.

        It undoes only the ``write`` that returned this object, and only once; what else is in the
        directory stays. A training that was refused leaves nothing behind in this way.

        Raises:
            JobBusyError: A training goes on in the directory.
            OSError: Something can't be removed.
        """
        made, self._made = self._made, ()
        if made:
            self.directory.take_back(made)

    @property
    def path(self) -> Path:
        """The directory, absolute."""
        return self.directory.path

    @property
    def is_planned(self) -> bool:
        """Whether there is a plan in the directory."""
        return self.directory.is_planned()

    @property
    def files(self) -> JobFiles:
        """The files of the plan, by name."""
        return JobFiles(self.path)

    @property
    def plan(self) -> PlanFile:
        """What plan.json says.

        Raises:
            InputError: It is missing, or isn't a plan.
        """
        return self.directory.read_plan()

    @property
    def record(self) -> JobRecord | None:
        """What job.json says about the attempts so far; None before the first.

        Raises:
            InputError: The file isn't the record of a job.
        """
        settle_if_free(self.directory)
        return self.directory.read_record()

    @property
    def last_engine(self) -> str:
        """Name of the engine that trained last here, or that the plan is for."""
        record = self.record
        return record.attempts[-1].engine if record and record.attempts else self.plan.engine

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots that it has, oldest first."""
        files = engines.find(self.last_engine).snapshots
        return tuple(files.list_snapshots(self.directory.snapshots))

    @property
    def metrics(self) -> tuple[Metrics, ...]:
        """The lines of metrics.jsonl: updates with their loss, tests, gradients.

        Seconds are training time; samples and updates are counted from update 0.
        """
        settle_if_free(self.directory)
        file = self.directory.metrics
        return tuple(read_metrics(file)) if file.exists() else ()

    def status(self) -> Status:
        """The state of the training: its ``state``, its ``progress``, its last ``attempt``.

        Raises:
            InputError: This is not a job directory, or its files can't be read.
        """
        with closing(RunFollower(self.directory)) as follower:
            return follower.status()

    def train(
        self,
        *,
        engine: str | None = None,
        runtime: RuntimeName = None,
        cpu: bool = False,
        gpu: int | None = None,
        threads: int = 1,
        weights: Files | None = None,
        snapshot: str | Path | None = None,
        restart: bool = False,
        try_larger: bool = False,
        epochs: str | None = None,
        updates: str | int | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_best: str | None = None,
        max_loss: float | None = None,
        on_divergence: str = "stop",
        stall_timeout: float | None = None,
        precision: Literal["float32", "tf32", "bf16"] | None = None,
        noise_scale: bool = False,
        check_data: Literal["none", "quick", "all"] = "quick",
        tensorboard: bool = False,
        observer: Observer | Sequence[Observer] = (),
    ) -> Outcome:
        """Train to the end, from the newest whole snapshot if there is one.

        If a run runs out of memory, it continues with the next smaller split of the same effective
        batch. In the main thread, an interrupt (Ctrl-C, or the stop button of a notebook) takes a
        snapshot and returns an outcome that is INTERRUPTED; a second one kills the worker.

        Args:
            engine: What trains: ``"caffe"`` or ``"pytorch"``; each continues from the other's
                snapshots. None for the one that trained last here, or else the planned one.
            runtime: The Python with caffe: its path or name, ``docker[:IMAGE]``,
                ``podman[:IMAGE]``; None for the one found by default.
            cpu: Train on the CPU even if there is a GPU.
            gpu: Train on this GPU, in CUDA's numbers; None for the solver's device_id.
            threads: CPU threads for the matrix products.
            weights: .caffemodel files to begin with: fine-tuning.
            snapshot: Continue from this .solverstate of another run; its weights must be beside
                it.
            restart: Start from update 0. An earlier run is deleted once this one has a good
                snapshot or has finished; until then it comes back if this one fails.
            try_larger: If an out-of-memory has made the split smaller, return to the planned
                one, from the newest snapshot; ``restart`` does so by itself.
            epochs: Train for this many epochs more than the solver says, such as ``"+3"``.
            updates: The same in updates, such as ``"+1000"``; without the plus, the number of
                updates in all.
            keep_last: How many of the newest snapshots to keep; None for all, or 1 with
                ``keep_every``.
            keep_every: Also keep the first snapshot of every this many updates.
            keep_best: Take a snapshot at each test, and keep the best one by this output of the
                test net, such as ``"accuracy"`` (or ``"1:accuracy"``, that of test net 1): the
                highest, or the lowest for a loss. Of the others the newest is kept, or what
                ``keep_last`` and ``keep_every`` say. A run that continues remembers it; ``"none"``
                ends that.
            max_loss: Treat a loss above this as diverged; nan and inf always are.
            on_divergence: ``"stop"``, or ``"rollback:0.5"`` for instance: continue from the last
                good snapshot with base_lr times the factor, at most three times.
            stall_timeout: Seconds without progress after which the run is stopped; None for 600,
                or 20 times the longest pause so far.
            precision: PyTorch only: ``"float32"``, ``"tf32"`` or ``"bf16"``, as :func:`plan`
                takes it; None for the plan's.
            noise_scale: Also measure the gradient noise scale.
            check_data: How much of the data to check first, as :func:`plan` takes it.
            tensorboard: Also write the curves for TensorBoard, to ``tensorboard/`` in the job.
            observer: One or several functions, called with the progress about five times a second.

        Raises:
            InputError: It isn't a directory that can be trained, or the arguments contradict it.
            RuntimeMissingError: There is no such Python with caffe.
            JobBusyError: Another process is training in the directory.
            DoesNotFitError: Caffe ran out of memory even with the smallest split.
            TrainingError: Caffe ended before the last update; the message has its reason, the last
                lines of its log and where the log is.
        """
        options = train_options(
            cpu=cpu, gpu=gpu, threads=threads, weights=weights, snapshot=snapshot, restart=restart,
            try_larger=try_larger, epochs=epochs, updates=updates,
            keep_last=keep_last, keep_every=keep_every, keep_best=keep_best, max_loss=max_loss,
            on_divergence=on_divergence, stall_timeout=stall_timeout, noise_scale=noise_scale,
            precision=precision,
            check_data=check_data,
        )  # fmt: skip
        trainer = find_trainer(runtime, engine, self.last_engine)
        count = counting(self.plan.engine)
        options = replace(options, engine=trainer.engine, count=count)
        observers = [observer] if callable(observer) else list(observer)
        with ExitStack() as open_now:
            if tensorboard:
                from caffe_batch.reporting.tensorboard import TensorBoardFiles

                observers.append(open_now.enter_context(TensorBoardFiles(self.directory)))

            def observe(progress: training.Progress) -> None:
                for each in observers:
                    each(progress)

            made = training.train(self.directory, trainer.runtime, options, observe)
        drawn = tuple(self._draw_loss()) if made.ran else ()
        facts = {field.name: getattr(made, field.name) for field in fields(made)}
        notes = (*trainer.notes, *made.notes, *drawn)
        return Outcome(**{**facts, "notes": notes}, job=self)

    def _draw_loss(self) -> Iterator[str]:
        """Draw loss.png; yields the reason if it can't be drawn."""
        from caffe_batch.reporting import loss_plot
        from caffe_batch.reporting.figures import why_not_drawn

        title = f"{self.path.name}: {self.plan.summary}"
        metrics, picture = self.directory.metrics, self.directory.loss_plot
        yield from why_not_drawn(
            picture.name, lambda: loss_plot.write_loss_plot(metrics, picture, title=title)
        )

    def follow(self, observer: Observer | None = None) -> Status:
        """Watch a run in another process until it ends.

        Args:
            observer: Called with the progress twice a second.

        Raises:
            InputError: Nothing has been trained here yet.
            TrainingError: The run has failed, or was killed.
        """
        observe = observer or (lambda progress: None)
        with closing(RunFollower(self.directory)) as follower:
            status = follower.status()
            if status.state is RunState.PLANNED:
                raise InputError(
                    f"{self.path}: nothing has been trained here yet",
                    hint=[self._call("train", "train()", "--detach"), " starts it."],
                )
            observe(status.progress)
            while status.state is RunState.RUNNING:
                time.sleep(_INTERVAL_S)
                status = follower.status()
                observe(status.progress)
        self._check_ended_well(status)
        return status

    def _check_ended_well(self, status: Status) -> None:
        update, updates = status.progress.update, status.progress.updates
        attempt = status.attempt
        if status.state is RunState.KILLED:
            raise TrainingError(
                f"the run in {self.path} was killed at update {update} of {updates}, or could not "
                "write its end to the disk",
                hint=[self._call("train", "train()"), " continues from its newest snapshot."],
            )
        if status.state is RunState.FAILED:
            ending = attempt.ending if attempt else None
            why = f"{ending.value}: {attempt.detail}" if attempt and ending else "it did not begin"
            title = engines.find(attempt.engine if attempt else self.plan.engine).title
            raise TrainingError(f"{title} stopped at update {update} of {updates}: {why}")

    def stop(
        self, *, timeout: float = 300.0, observer: Callable[[str], None] | None = None
    ) -> Status:
        """Stop a training in another process as Ctrl-C does there: with a snapshot.

        :meth:`train` continues from there. A second ``stop`` ends it at once.

        Args:
            timeout: Seconds to wait for the current update to end and for the snapshot.
            observer: Called with a sentence if there is more to wait for than usual.

        Returns:
            The status after it has stopped.

        Raises:
            InputError: Nothing is running here, or it is running on another machine, in a
                container or as another user.
            TrainingError: It is still running after ``timeout``.
        """
        now = self.status()
        if now.pid == 0:  # it has just begun
            time.sleep(_INTERVAL_S)
            now = self.status()
        if now.pid is None:
            raise InputError(
                f"{self.path}: nothing is running here; the job is {now.state.value}",
                hint=[self._call("status", "status()"), " says more."],
            )
        host = now.record.host if now.record else platform.node()
        if host != platform.node():
            raise InputError(f"{self.path}: it is running on {host}", hint=f"Stop it from {host}.")
        if self.directory.signal_supervisor(now.pid, signal.SIGINT):
            again = Call("`caffe-batch stop` again", "stop() again")
            hint: Text = [again, " kills the worker at once; the newest snapshot remains."]
        else:
            self._check_orphaned(now)
            if observer is not None:
                observer("Its supervisor has ended already; waiting for the worker.")
            worker = now.attempt.pid if now.attempt else "PID"
            hint = [f"`kill -9 {worker}` kills the worker; the newest snapshot remains."]
        deadline = time.monotonic() + timeout
        while self.directory.supervisor() is not None:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{self.path}: it is still running after {timeout:g} s", hint=hint
                )
            time.sleep(0.05)
        return self.status()

    def _check_orphaned(self, now: Status) -> None:
        """Refuses to wait for a training whose processes this one can neither see nor signal."""
        worker = now.attempt.pid if now.attempt else None
        running = self.directory.supervisor() is not None
        if running and not (worker and self.directory.is_held_by(worker)):
            raise InputError(
                f"{self.path}: process {now.pid}, which the lock names, is not the training as "
                "seen from here: it runs in a container or as another user. Nothing was signaled",
                hint=[self._call("stop", "stop()"), " stops it from there."],
            )

    def report(self, out: str | Path | None = None) -> Path:
        """Write a self-contained HTML page about the run.

        Args:
            out: The file to write; report.html in the job directory if None.

        Returns:
            The page.

        Raises:
            InputError: This is not a job directory, or its files can't be read.
            OSError: The page can't be written.
        """
        return report([self], out=out)

    def _call(self, command: str, method: str, options: str = "") -> Call:
        shell = " ".join(filter(None, ["caffe-batch", command, str(self.path), options]))
        return Call(shell, f"Job({str(self.path)!r}).{method}")

    def __repr__(self) -> str:
        return f"<Job {self.path}: {self.status().state.value}>" if self.is_planned else (
            f"<Job {self.path}: not planned>"
        )  # fmt: skip


def standings(jobs: Sequence[Job | str | Path]) -> list[Standing]:
    """The states of several trainings, or what is wrong with those that can't be read.

    Each has its ``name``, and ``status`` (as of :meth:`Job.status`) or ``problem``.
    """
    found = []
    for each in jobs:
        job = each if isinstance(each, Job) else Job(each)
        try:
            found.append(Standing(str(job.path), job.status()))
        except InputError as error:
            found.append(Standing(str(job.path), problem=error))
    return found


def read_runs(jobs: Sequence[Job | str | Path]) -> list[ReportedRun]:
    """What the files of some jobs say: their plans, attempts and curves.

    Raises:
        InputError: One is not a job directory, or its files can't be read.
    """
    from caffe_batch.reporting.report_data import read_runs as read

    return read([job.path if isinstance(job, Job) else Path(job) for job in jobs])


def report(
    jobs: Sequence[Job | str | Path],
    *,
    out: str | Path | None = None,
    runs: Sequence[ReportedRun] | None = None,
) -> Path:
    """Write an HTML page about one run, or one that compares several.

    Args:
        jobs: The directories of the runs.
        out: The file to write; None for report.html in the directory of a single job, or in the
            working directory for several.
        runs: The result of :func:`read_runs` for them, if there is one.

    Returns:
        The page.

    Raises:
        InputError: One is not a job directory, or its files can't be read.
        OSError: The page can't be written.
    """
    return _write_report(read_runs(jobs) if runs is None else runs, out)


def watched_report(
    jobs: Sequence[Job | str | Path],
    *,
    out: str | Path | None = None,
    every: float = 5.0,
    observer: Callable[[Path], object] = lambda page: None,
) -> Path:
    """Write the page of :func:`report` again and again while a run goes on.

    The page is replaced as a whole, and makes an open browser reload it. When the runs have
    ended, the last page is the one that :func:`report` writes.

    Args:
        jobs: The directories of the runs.
        out: The file to write, as for :func:`report`.
        every: Seconds between two pages.
        observer: Called with the page each time it has been written.

    Returns:
        The page.

    Raises:
        InputError: One is not a job directory, or its files can't be read.
        OSError: The page can't be written.
    """
    from caffe_batch.reporting.report_data import read_runs as read

    paths = [job.path if isinstance(job, Job) else Path(job) for job in jobs]
    pause_s = _seconds("every", every) or 0.0
    runs = read(paths)
    while any(run.status.state is RunState.RUNNING for run in runs):
        observer(_write_report(runs, out, refresh_s=max(1, round(pause_s))))
        time.sleep(pause_s)
        runs = read(paths, runs)
    page = _write_report(runs, out)
    observer(page)
    return page


def _write_report(
    runs: Sequence[ReportedRun], out: str | Path | None, refresh_s: int | None = None
) -> Path:
    from caffe_batch.files import replace_text, write_text
    from caffe_batch.reporting.report_page import render_report

    text = render_report(runs, refresh_s)
    if out is None and len(runs) == 1:
        page = runs[0].job.report
        replace_text(page, text)  # a file of the job's, wherever a link there leads
    else:
        page = Path(out or "report.html")
        write_text(page, text)
    return page


def train_options(
    *,
    cpu: bool = False,
    gpu: int | None = None,
    threads: int = 1,
    weights: Files | None = None,
    snapshot: str | Path | None = None,
    restart: bool = False,
    try_larger: bool = False,
    epochs: str | None = None,
    updates: str | int | None = None,
    keep_last: int | None = None,
    keep_every: int | None = None,
    keep_best: str | None = None,
    max_loss: float | None = None,
    on_divergence: str = "stop",
    stall_timeout: float | None = None,
    precision: Literal["float32", "tf32", "bf16"] | None = None,
    noise_scale: bool = False,
    check_data: Literal["none", "quick", "all"] = "quick",
) -> training.Options:
    """How to train, from the arguments of :meth:`Job.train`.

    Raises:
        InputError: They contradict each other, or one has an invalid value.
    """
    return training.Options(
        device=device_of(cpu=cpu, gpu=whole("gpu", gpu, least=0)),
        threads=whole("threads", threads) or 1,
        restart=restart,
        try_larger=try_larger,
        noise_scale=noise_scale,
        weights=files(weights),
        snapshot=None if snapshot is None else Path(snapshot),
        keep_last=whole("keep_last", keep_last),
        keep_every=whole("keep_every", keep_every),
        keep_best=None if keep_best is None else Metric.parse(keep_best),
        max_loss=max_loss,
        rollback=_rollback(on_divergence),
        stall_timeout_s=_seconds("stall_timeout", stall_timeout),
        precision=None if precision is None else choice("precision", precision, Precision),
        check_data=choice("check_data", check_data, DataCheck),
        longer=_longer(epochs, updates, restart=restart),
    )


def _longer(epochs: str | None, updates: str | int | None, *, restart: bool) -> Longer | None:
    """For how much longer to train."""
    if epochs is None and updates is None:
        return None
    name = "updates" if epochs is None else "epochs"
    other = Option("updates") if epochs is not None and updates is not None else None
    if other or restart:
        raise InputError(
            [Option(name), " and ", other or Option("restart"), " contradict each other"],
            hint="Give one of them: a restart trains for as long as the solver says.",
        )
    if epochs is not None:
        number = positive("epochs", epochs)
        if not epochs.lstrip().startswith("+"):
            raise InputError(
                [Option("epochs", epochs), ": the job is planned already"],
                hint=["It can be trained for longer: ", Option("epochs", f"+{epochs}"), "."],
            )
        return Longer(epochs=number)
    text = str(updates).strip()
    if not text.removeprefix("+").isascii() or not text.removeprefix("+").isdigit():
        raise InputError(
            [Option("updates"), f" is {updates!r}, but must be a whole number, such as +1000"],
            hint=["For instance ", Option("updates", "+1000"), "."],
        )
    count = int(text[:20])
    return Longer(updates=count) if text.startswith("+") else Longer(in_all=count)


def _rollback(on_divergence: str) -> float | None:
    """The factor of ``rollback:FACTOR``, or None for ``stop``."""
    word, _, number = on_divergence.partition(":")
    if on_divergence == "stop":
        return None
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if word != "rollback" or not 0 < factor < 1:
        raise InputError(
            [
                Option("on_divergence"),
                f": {on_divergence!r} is neither stop nor rollback:FACTOR with a factor below 1",
            ],
            hint=["For instance ", Option("on_divergence", "rollback:0.5"), "."],
        )
    return factor


def _seconds(name: str, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise InputError(
            [Option(name), f" is {value:g}, but must be above 0"],
            hint=["For instance ", Option(name, 600), "."],
        )
    return value
