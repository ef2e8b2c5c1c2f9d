"""The job directory: every file of one training run, named in one place, and its record.

Files are the protocol: another program may read any of them while the run goes on. JSON files are
replaced as a whole (written under a temporary name, then renamed), so a reader never sees half.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from caffe_batch.engines.caffe.inside.worker_log import change_names
from caffe_batch.engines.caffe.log_files import log_files
from caffe_batch.errors import InputError
from caffe_batch.files import write_text
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.lock import held, holder


class JobState(str, Enum):
    """Where a job stands; the value is what job.json has."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One worker process of a job.

    Attributes:
        number: 1 for the first.
        started, ended: ISO 8601 in UTC; ``ended`` is None while it runs.
        runtime: Name of the runtime.
        pid: Process id of the worker, which is also its process group.
        threads: CPU threads that OpenBLAS was given.
        working_directory: Where relative paths of the net were looked up.
        resumed_from: The solverstate it went on from, or None from update 0.
        first_update: Updates done when it began.
        last_update: Updates done when it was last heard of.
        caffe_version, python_version, device: What the worker said of itself; device is ``CPU``
            or ``GPU 0``. None before it said so.
        choices: What was decided for this run and why, one sentence each.
        ending: Why it ended (a value of ``EndReason``), or None while it runs.
        detail: The same in words, with Caffe's own message.
        phase: Which phase of the plan it ran, 1 for the first.
        batch_size, iter_size: The split of the effective batch that it ran.
        predicted_bytes: What the plan says that Caffe asks for; None if it doesn't say.
        seen_bytes: The most memory that the worker was seen to have (see ``MemoryMeter``).
        free_bytes: What was free on the GPU before it started; None on the CPU.
    """

    number: int
    started: str
    runtime: str
    pid: int
    threads: int
    working_directory: str
    resumed_from: str | None
    first_update: int
    last_update: int
    caffe_version: str | None = None
    python_version: str | None = None
    device: str | None = None
    choices: tuple[str, ...] = ()
    ended: str | None = None
    ending: str | None = None
    detail: str | None = None
    phase: int = 1
    batch_size: int | None = None
    iter_size: int | None = None
    predicted_bytes: int | None = None
    seen_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True)
class JobRecord:
    """What job.json holds.

    Attributes:
        state: Where the job stands. ``running`` without a living process: it was killed.
        updates: Those to do in all: max_iter of the last phase's solver.
        updates_done: Updates done by the last attempt.
        host: Name of the machine.
        caffe_batch_version: The version that ran it.
        seed: The solver's random_seed, or None if Caffe drew one.
        attempts: Every worker process, first to last.
        weights: The .caffemodel files that update 0 begins with; none for the fillers' values.
        initial_state: The solverstate of another run that this one goes on from, or None.
    """

    state: JobState
    updates: int
    updates_done: int
    host: str
    caffe_batch_version: str
    seed: int | None
    attempts: tuple[Attempt, ...] = ()
    weights: tuple[str, ...] = ()
    initial_state: str | None = None


@dataclass(frozen=True)
class PhaseFacts:
    """What plan.json says of a phase: its files, and the samples of each of its updates."""

    solver: Path
    net: Path
    effective_batch: int


@dataclass(frozen=True)
class PlanFacts:
    """What training needs to know of plan.json.

    Attributes:
        effective_batch: Samples per update, in the first phase.
        batch_size, iter_size, gpus: Its factors.
        cpu_mode: Whether the plan counts on Caffe's CPU mode.
        train_records: Records of the training set, or None if the plan doesn't know.
        working_directory: Where the plan was made; relative paths in the net start there.
        summary: The plan in one line.
        phases: The solvers to run one after another, at least one.
        predicted_peak_bytes: What Caffe is predicted to ask for, in the plan's mode, or None.
        rounding_bytes: What cudaMalloc adds to it.
        exact: Whether the prediction is exact, no bound and no estimate.
        audit: What accumulation changes, as plan.json has it.
    """

    effective_batch: int
    batch_size: int
    iter_size: int
    gpus: int
    cpu_mode: bool
    train_records: int | None
    working_directory: Path
    summary: str
    phases: tuple[PhaseFacts, ...]
    predicted_peak_bytes: int | None = None
    rounding_bytes: int = 0
    exact: bool = False
    audit: tuple[Mapping[str, Any], ...] = ()

    def predicted_on(self, device: str | None) -> int | None:
        """The predicted peak if it is meant for a device, ``CPU`` or ``GPU 0``; else None."""
        return self.predicted_peak_bytes if self.cpu_mode == (device == "CPU") else None


class JobDirectory:
    """A directory written by ``plan``, and the names of all that ``train`` adds to it.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        planned = JobFiles(self.path)
        self.solver, self.net, self.plan = planned.solver, planned.net, planned.plan
        self.snapshots = planned.snapshot_prefix.parent
        self.record = self.path / "job.json"
        self.log = self.path / "caffe.log"
        self.metrics = self.path / "metrics.jsonl"
        self.loss_plot = self.path / "loss.png"
        self.report = self.path / "report.html"
        self.tensorboard = self.path / "tensorboard"
        self.console = self.path / "train.log"  # what a detached ``train`` says
        self.worker_folder = self.path / ".worker"
        self.worker_solver = self.worker_folder / "solver.prototxt"
        self.worker_state = self.worker_folder / "resume.solverstate"
        self.worker_nets = self.worker_folder / "nets"
        self.worker_events = self.worker_folder / "events"
        self.lock_file = self.worker_folder / "lock"
        self.rewrite_file = self.worker_folder / "rewrite.json"

    def is_planned(self) -> bool:
        """Whether ``plan`` has written here."""
        return self.plan.is_file()

    def plan_content(self) -> dict[str, Any]:
        """What plan.json holds.

        Raises:
            InputError: It is missing, or no JSON object.
        """
        self._check_there(self.plan)
        return _read_json(self.plan)

    def read_plan(self) -> PlanFacts:
        """The facts of plan.json.

        Raises:
            InputError: A file that ``plan`` writes is missing, or plan.json is not a plan.
        """
        content = self.plan_content()
        try:
            directory = content.get("working_directory")
            records = content.get("train_records")
            predicted = content.get("predicted_peak_bytes")
            build = content.get("build") or content.get("engine")  # its name in 0.1.0
            batch_size, iter_size = int(content["batch_size"]), int(content["iter_size"])
            effective = int(content["effective_batch"])
            split = f"effective batch {effective} = batch_size {batch_size} x iter_size {iter_size}"
            facts = PlanFacts(
                effective_batch=effective,
                batch_size=batch_size,
                iter_size=iter_size,
                gpus=int(content["gpus"]),
                cpu_mode=content.get("mode") == "cpu",
                train_records=None if records is None else int(records),
                working_directory=self.path if directory is None else Path(directory),
                summary=str(content.get("summary", split)),
                phases=tuple(
                    PhaseFacts(
                        self.path / phase["solver"],
                        self.path / phase["net"],
                        int(phase["effective_batch"]),
                    )
                    for phase in content.get("phases", ())
                )
                or (PhaseFacts(self.solver, self.net, effective),),
                predicted_peak_bytes=None if predicted is None else int(predicted),
                rounding_bytes=int(content.get("rounding_bytes", 0)),
                exact=build == "caffe" and not content.get("lower_bound"),
                audit=tuple(dict(finding) for finding in content.get("audit", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.plan}: not a plan ({type(error).__name__}: {error})",
                hint="Plan again with `caffe-batch plan NET ... --out DIR`.",
            ) from error
        self._check_there(*(file for phase in facts.phases for file in (phase.solver, phase.net)))
        return facts

    def _check_there(self, *files: Path) -> None:
        for file in files:
            if not file.is_file():
                raise InputError(
                    f"{self.path}: there is no {file.name}",
                    hint="Write the directory with `caffe-batch plan NET ... --out DIR`.",
                )

    def read_record(self) -> JobRecord | None:
        """What job.json says, or None before the first ``train``.

        Raises:
            InputError: The file is not a job record.
        """
        if not self.record.is_file():
            return None
        content = _read_json(self.record)
        try:
            attempts = tuple(
                Attempt(**{**attempt, "choices": tuple(attempt["choices"])})
                for attempt in content.pop("attempts")
            )
            changed = {
                "state": JobState(content["state"]),
                "attempts": attempts,
                "weights": tuple(content.get("weights", ())),
            }
            return JobRecord(**{**content, **changed})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.record}: not a job record ({type(error).__name__}: {error})",
                hint="`caffe-batch train DIR --restart` starts again from update 0.",
            ) from error

    def write_record(self, record: JobRecord) -> None:
        """Replace job.json."""
        write_json(self.record, asdict(record))

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the directory for one ``train`` (see :func:`~caffe_batch.jobs.lock.held`).

        Raises:
            InputError: This is no job directory.
            JobBusyError: Another ``train`` runs here.
        """
        self._check_there(self.plan)
        self.worker_folder.mkdir(exist_ok=True)
        with held(self.lock_file, self.path) as descriptor:
            yield descriptor

    def supervisor(self) -> int | None:
        """Process id of the ``train`` that holds the directory, or None if none does.

        If that process is gone, its worker still ends. 0 if the process is about to say so.
        """
        return holder(self.lock_file)

    def rewrite(self, texts: Mapping[Path, str]) -> None:
        """Replace several files of the directory together.

        They are written to a journal first. Whatever dies in between, :meth:`finish_rewrite` makes
        the rest of the change: never is there one half of it and half of what was before.
        """
        self.worker_folder.mkdir(exist_ok=True)
        journal = {path.relative_to(self.path).as_posix(): text for path, text in texts.items()}
        write_json(self.rewrite_file, journal)
        self.finish_rewrite()

    def finish_rewrite(self) -> None:
        """Make a change that was begun and not finished, if there is one. Needs the lock."""
        if self.rewrite_file.is_file():
            for name, text in _read_json(self.rewrite_file).items():
                write_text(self.path / name, text)
            self.rewrite_file.unlink()

    def clear_results(self) -> None:
        """Remove what ``train`` has written: log, metrics, snapshots, record and picture."""
        for file in (self.record, self.metrics, self.loss_plot, self.worker_state):
            file.unlink(missing_ok=True)
        change_names(str(self.log))
        for file in log_files(self.log):
            file.unlink()
        for folder in (self.snapshots, self.tensorboard):
            if folder.is_dir():
                shutil.rmtree(folder)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole: readers see the old or the new one, never a part."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
