"""The job directory: the names of all files of one training run, its lock and its journal.

The files are the interface: other programs may read them while the run continues. JSON files are
replaced as a whole (written under a temporary name, then renamed), so a reader never sees half of
one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from caffe_batch.errors import InputError, Option
from caffe_batch.files import is_plain_name, replace_text, write_json
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.json_files import PLAN_A_JOB, NewerFormatError, read_object
from caffe_batch.jobs.lock import has_open, held, holder, signal_holder
from caffe_batch.jobs.logs import all_log_files
from caffe_batch.jobs.metrics import check_metrics_format, damaged_lines
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.previous import PreviousRun
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
        self.previous = PreviousRun(self.path, self.results)

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
    def lock(self, *, briefly: bool = False) -> Iterator[int]:
        """Hold the directory for one ``train`` (see :func:`~caffe_batch.jobs.lock.held`).

        Args:
            briefly: Whether this is no ``train``, but a moment in which none may begin.

        Raises:
            InputError: This is no job directory, or a file in it leads out of it.
            JobBusyError: Another ``train`` runs here.
        """
        self._check_there(self.plan)
        self._check_links()
        self.worker_folder.mkdir(exist_ok=True)
        with held(self.lock_file, self.path, briefly=briefly) as descriptor:
            yield descriptor

    def take_back(self, made: Sequence[Path]) -> None:
        """Remove what ``plan`` has made, if nothing was trained since and nobody holds the lock.

        Anything else that is in the directory stays there, and the directory with it.

        Args:
            made: The directories and files in the order in which they were made.

        Raises:
            JobBusyError: A training goes on in the directory.
            OSError: Something can't be removed.
        """
        with self.lock(briefly=True):
            if self.record.exists() or all_log_files(self.log):
                return
            for file in (*(path for path in reversed(made) if not path.is_dir()),
                         self.metrics, self.console, self.lock_file):  # fmt: skip
                file.unlink(missing_ok=True)
        folders = [path for path in made if path.is_dir()]
        for folder in (self.worker_folder, *reversed(folders)):
            with suppress(OSError):  # it isn't empty
                folder.rmdir()

    def supervisor(self) -> int | None:
        """Process id of the ``train`` that holds the directory, or None if none does.

        A process that no longer exists has left a worker behind, which is about to exit. 0 while
        the holder hasn't yet written its id. None also while the directory is held briefly.

        Raises:
            InputError: The lock lies elsewhere.
        """
        _refuse_links([self.worker_folder, self.lock_file])
        return holder(self.lock_file)

    def signal_supervisor(self, pid: int, number: int) -> bool:
        """Send the ``train`` that holds the directory a signal, if it is that process.

        Args:
            pid: The process id that the lock names.
            number: The signal.

        Returns:
            Whether it was sent; not if the process is gone or another one, as in a container.
        """
        return signal_holder(pid, self.lock_file, number)

    def is_held_by(self, pid: int) -> bool:
        """Whether a process, a supervisor or a worker, has a part in holding the directory."""
        return has_open(pid, self.lock_file) is True

    def rewrite(self, texts: Mapping[Path, str]) -> None:
        """Replace several files of the directory together.

        They are written to a journal first. If anything dies halfway, :meth:`finish_rewrite`
        completes the change, so no run ever uses a mixture of old and new files. While a run
        before is kept, so are its files.

        Raises:
            InputError: One is not a file of this directory.
        """
        for path in texts:
            if path.parent != self.path:
                raise InputError(
                    f"{path} is not in the job directory {self.path}, and stays as it is",
                    hint="Plan again with `caffe-batch plan ... --out DIR`: it copies the files.",
                )
        self.worker_folder.mkdir(exist_ok=True)
        self.previous.save(texts)
        write_json(self.rewrite_file, {path.name: text for path, text in texts.items()})
        self.finish_rewrite()

    def finish_rewrite(self) -> None:
        """Complete a change that was begun and not finished, if there is one. Needs the lock.

        Raises:
            InputError: The journal is damaged, or names a file outside this directory.
        """
        if self.rewrite_file.is_file():
            journal = read_object(
                self.rewrite_file, "Remove it: the files of the job then stay as they are."
            )
            for name in journal.content:
                if not is_plain_name(name):
                    raise InputError(
                        f"{self.rewrite_file} names {name!r}, which is not a file of the job",
                        hint=journal.hint,
                    )
            for name, text in {name: journal.text(name) for name in journal.content}.items():
                replace_text(self.path / name, text)
            self.rewrite_file.unlink()

    def results(self) -> list[Path]:
        """What ``train`` has written and a new run begins without, as far as it is there."""
        named = (
            self.record,
            self.metrics,
            damaged_lines(self.metrics),
            self.loss_plot,
            self.snapshots,
            self.tensorboard,
        )
        halves = self.path.glob(f".{self.record.name}.*.tmp")  # of a supervisor that was killed
        return [*(path for path in named if path.exists()), *all_log_files(self.log), *halves]

    def _check_links(self) -> None:
        """Refuses a directory in which what ``train`` writes would land elsewhere.

        Raises:
            InputError: A file or a folder that it writes to is a link, a pipe or a device.
        """
        single = (self.console, self.loss_plot, *self.path.glob("metrics.jsonl*"))
        logs = tuple(self.path.glob(f"{self.log.name}*"))
        folders = (self.worker_folder, self.snapshots, self.tensorboard, *self.previous.folders)
        inside = (
            Path(folder, name)
            for top in folders
            for folder, *names in os.walk(top)
            for name in chain.from_iterable(names)
        )
        _refuse_links(chain(single, logs, folders, inside))
        for path in (*single, *logs):
            if path.exists() and not path.is_file():
                raise InputError(
                    f"{path} is not a file, and a training writes one there", hint="Remove it."
                )


def _refuse_links(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, and what a training writes stays in its "
                "job directory",
                hint=["Remove the link. For another disk, plan with ", Option("out"), " there."],
            )
