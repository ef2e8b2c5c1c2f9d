"""The job directory: the names of all files of one training run, its lock and its journal.

The files are the interface: other programs may read them while the run goes on. JSON files are
replaced as a whole (written under a temporary name, then renamed), so a reader never sees half of
one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.files import write_json, write_text
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.json_files import PLAN_A_JOB, NewerFormatError, read_object
from caffe_batch.jobs.lock import held, holder
from caffe_batch.jobs.logs import remove_log
from caffe_batch.jobs.metrics import check_metrics_format, damaged_lines
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.record import JobRecord, read_record, write_record


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

    def read_plan(self) -> PlanFile:
        """What plan.json says.

        Raises:
            InputError: A file that ``plan`` writes is missing, or plan.json is not a plan.
        """
        self._check_there(self.plan)
        plan = PlanFile.read(self.plan)
        self._check_there(*(file for stage in plan.stages for file in (stage.solver, stage.net)))
        return plan

    def _check_there(self, *files: Path) -> None:
        for file in files:
            if not file.is_file():
                raise InputError(
                    f"{self.path}: there is no {file.name}",
                    hint=["Write the directory with ", PLAN_A_JOB, "."],
                )

    def read_record(self) -> JobRecord | None:
        """What job.json says, or None before the first ``train``.

        Raises:
            InputError: The file is not a job record.
        """
        return read_record(self.record) if self.record.is_file() else None

    def write_record(self, record: JobRecord) -> None:
        """Replace job.json."""
        write_record(self.record, record)

    def check_formats(self) -> None:
        """Refuses results of a newer version, however damaged they may be otherwise.

        Raises:
            NewerFormatError: job.json or metrics.jsonl is of a newer format.
        """
        try:
            self.read_record()
        except NewerFormatError:
            raise
        except InputError:
            pass  # damage concerns only those who need the record
        check_metrics_format(self.metrics)

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

        A process that no longer exists has left a worker behind, which is about to exit. 0 while
        the holder hasn't yet written its id.
        """
        return holder(self.lock_file)

    def rewrite(self, texts: Mapping[Path, str]) -> None:
        """Replace several files of the directory together.

        They are written to a journal first. If anything dies halfway, :meth:`finish_rewrite`
        completes the change, so no run ever uses a mixture of old and new files.
        """
        self.worker_folder.mkdir(exist_ok=True)
        journal = {path.relative_to(self.path).as_posix(): text for path, text in texts.items()}
        write_json(self.rewrite_file, journal)
        self.finish_rewrite()

    def finish_rewrite(self) -> None:
        """Complete a change that was begun and not finished, if there is one. Needs the lock."""
        if self.rewrite_file.is_file():
            journal = read_object(self.rewrite_file)
            for name, text in {name: journal.text(name) for name in journal.content}.items():
                write_text(self.path / name, text)
            self.rewrite_file.unlink()

    def clear_results(self) -> None:
        """Remove what ``train`` has written: log, metrics, snapshots, record and plot."""
        metrics = (self.metrics, damaged_lines(self.metrics))
        for file in (self.record, *metrics, self.loss_plot, self.worker_state):
            file.unlink(missing_ok=True)
        remove_log(self.log)
        for folder in (self.snapshots, self.tensorboard):
            if folder.is_dir():
                shutil.rmtree(folder)
