"""``caffe-batch train --on-end``: a command of the user's after the training."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from caffe_batch.jobs.directory import JobDirectory
from tests.command import PROGRAM, spawn
from tests.holding import LONG, PATIENCE_S, Hold
from tests.planned_jobs import write_job

pytestmark = pytest.mark.usefixtures("runtime")

#: Writes what it is told to a file beside the job, and something to both streams.
NOTE = (
    'echo "$CAFFE_BATCH_EXIT_CODE $CAFFE_BATCH_REASON" > "$CAFFE_BATCH_JOB/../said";'
    " echo to stdout; echo to stderr >&2"
)


def said(job: JobDirectory) -> str:
    return (job.path.parent / "said").read_text()


def test_after_a_run_that_has_finished(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=3)
    done = spawn(PROGRAM, "train", job.path, "--on-end", NOTE)
    assert (done.code, said(job)) == (0, "0 finished\n"), done.err
    assert done.out.splitlines()[0] == "Finished: 3 of 3 updates."
    assert "to stdout" not in done.out
    assert done.err.endswith("to stdout\nto stderr\n")
    (tmp_path / "said").unlink()
    again = spawn(PROGRAM, "train", job.path, "--on-end", NOTE)
    assert (again.code, said(job)) == (0, "0 finished\n")  # nothing was left to train


def test_its_failure_is_told_and_changes_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=3)
    done = spawn(PROGRAM, "train", job.path, "--quiet", "--on-end", "exit 7")
    assert done.code == 0
    assert "warning: the command of --on-end ended with exit code 7: exit 7\n" in done.err
    killed = spawn(PROGRAM, "train", job.path, "--quiet", "--on-end", "kill -9 $$")
    assert killed.code == 0
    assert "warning: the command of --on-end ended with signal 9: kill -9 $$\n" in killed.err


def test_after_a_failure(tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=1e30)
    done = spawn(PROGRAM, "train", job.path, "--quiet", "--on-end", f"{NOTE}; exit 1")
    assert (done.code, said(job)) == (4, "4 diverged\n"), done.err
    assert done.err.index("diverged: after update") < done.err.index("to stderr")


def test_after_an_interruption(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 2)
    with subprocess.Popen(
        [PROGRAM, "train", job.path, "--quiet", "--on-end", NOTE], stderr=subprocess.PIPE, text=True
    ) as process:
        hold.wait()
        process.send_signal(signal.SIGINT)
        hold.release()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said(job)) == (130, "130 interrupted\n"), err


def test_in_the_background(tmp_path: Path) -> None:
    """It runs once, in the process that trains."""
    job = write_job(tmp_path, max_iter=3)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = spawn(
        PROGRAM, "train", job.path, "--detach", "--on-end",
        'echo "$CAFFE_BATCH_REASON" > "$CAFFE_BATCH_JOB/../fifo"',
    )  # fmt: skip
    assert done.code == 0, done.err
    assert fifo.read_text() == "finished\n"


def test_not_if_nothing_was_begun(tmp_path: Path) -> None:
    """Another training may be going on there."""
    job = write_job(tmp_path, max_iter=3)
    with job.lock():
        busy = spawn(PROGRAM, "train", job.path, "--on-end", NOTE)
    assert busy.code != 0
    missing = spawn(PROGRAM, "train", job.path, "--weights", "none.caffemodel", "--on-end", NOTE)
    assert missing.code == 2
    follow = spawn(PROGRAM, "train", job.path, "--follow", "--on-end", NOTE)
    assert follow.code == 2
    assert "--on-end: --follow only watches a run" in follow.err
    assert not (tmp_path / "said").exists()
