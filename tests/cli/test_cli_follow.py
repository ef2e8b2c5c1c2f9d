"""Detached runs: ``train --detach`` and ``--follow``, ``status``, ``stop``; and ``report``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from tests.command import PROGRAM, call, spawn
from tests.holding import LONG, PATIENCE_S, Hold, is_alive, pending, wait_for
from tests.planned_jobs import FinishedJob, write_job

#: Where the background runs here wait.
HELD = 40

pytestmark = pytest.mark.usefixtures("runtime")


def status_of(job: JobDirectory) -> dict[str, object]:
    result = call("status", job.path, "--json")
    assert result.code == 0, result.err
    content: dict[str, object] = json.loads(result.out)
    return content


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[JobDirectory]:
    """A job in the background that is held after its update HELD, until it is asked to stop."""
    job = write_job(tmp_path, max_iter=LONG, test_interval=HELD)
    hold = Hold(job, HELD)
    started = spawn(PROGRAM, "train", job.path, "--detach")
    assert started.code == 0, started.err
    pid = int(str(status_of(job)["pid"]))
    assert f"Training in the background, process {pid}.\n" in started.out
    assert f"caffe-batch train --follow {job.path}\n" in started.out
    assert f"caffe-batch stop {job.path}\n" in started.out
    hold.wait()
    wait_for(lambda: status_of(job)["update"] == HELD)
    yield job
    if job.supervisor() is not None:
        os.kill(pid, signal.SIGTERM)
        call("stop", job.path)


@contextmanager
def following(job: JobDirectory, *options: str) -> Iterator[subprocess.Popen[str]]:
    """``train --follow``, which is already watching."""
    with subprocess.Popen(
        [PROGRAM, "train", "--follow", *options, job.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        before = list(takewhile(lambda line: "Training on the CPU" not in line, process.stderr))
        assert process.poll() is None, before
        yield process


def test_detached_and_stopped(detached: JobDirectory) -> None:
    now = status_of(detached)
    assert now["state"] == "running"
    assert (now["update"], now["updates"]) == (HELD, LONG)
    assert os.getsid(int(str(now["pid"]))) == now["pid"]  # a session of its own
    assert now["used_bytes"]
    text = call("status", detached.path).out
    assert text.startswith(f"running, process {now['pid']}: update ")
    assert text.rstrip().endswith(str(detached.path))

    again = spawn(PROGRAM, "train", detached.path, "--detach")
    assert again.code == 1
    assert "another `caffe-batch train` runs here" in again.err
    assert again.out == ""

    stopped = call("stop", detached.path)
    assert stopped.code == 0, stopped.err
    assert stopped.out == f"Stopped after update {HELD}.\n"
    assert [snapshot.update for snapshot in list_snapshots(detached.snapshots)] == [HELD]
    now = status_of(detached)
    assert (now["state"], now["pid"], now["worker_pid"]) == ("interrupted", None, None)
    wait_for(lambda: "Interrupted: " in detached.console.read_text())  # it still draws loss.png
    said = detached.console.read_text()
    assert f"Interrupted: {HELD} of " in said
    assert "another `caffe-batch train`" not in said

    nothing = call("stop", detached.path)
    assert nothing.code == 2
    assert "nothing is running here; the job is interrupted" in nothing.err


def test_ctrl_c_only_stops_following(detached: JobDirectory) -> None:
    with following(detached) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert f"No longer following; the run continues in {detached.path}.\n" in said
    assert "Traceback" not in said
    assert status_of(detached)["state"] == "running"


def test_following_to_the_end(detached: JobDirectory) -> None:
    with following(detached, "-q") as process:
        assert call("stop", detached.path).code == 0
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.startswith("Interrupted: ")
    *_, files, model, then = said.splitlines()
    assert files == f"files: {detached.path}"
    assert model.startswith("model: snapshots/tiny_iter_")
    assert then == f"next:  `caffe-batch train {detached.path}` continues"


def test_a_second_stop_kills_a_worker_that_does_not_answer(detached: JobDirectory) -> None:
    worker = int(str(status_of(detached)["worker_pid"]))
    os.kill(worker, signal.SIGSTOP)
    first = call("stop", detached.path, "--timeout", 0.5)
    assert first.code == 4
    assert "`caffe-batch stop` again kills the worker at once" in first.err
    wait_for(lambda: pending(worker, signal.SIGINT))  # its supervisor has taken the first
    second = call("stop", detached.path)
    assert second.code == 0, second.err
    assert not is_alive(worker)
    assert status_of(detached)["state"] == "interrupted"


def test_a_stop_without_a_supervisor_names_the_worker(detached: JobDirectory) -> None:
    now = status_of(detached)
    supervisor, worker = (int(str(now[key])) for key in ("pid", "worker_pid"))
    os.kill(worker, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not is_alive(supervisor))
    done = call("stop", detached.path, "--timeout", 0.5)
    assert done.code == 4
    assert "Its supervisor has ended already; waiting for the worker." in done.err
    assert f"`kill -9 {worker}` kills the worker; the newest snapshot remains." in done.err
    os.kill(worker, signal.SIGKILL)


def test_a_run_that_is_killed(detached: JobDirectory) -> None:
    now = status_of(detached)
    with following(detached) as process:
        for pid in (now["pid"], now["worker_pid"]):
            os.kill(int(str(pid)), signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert f"was killed at update {HELD} of {LONG}, or could not write its end" in said
    assert f"caffe-batch train {detached.path} continues from its newest snapshot." in said
    assert status_of(detached)["state"] == "killed"
    assert "the last one was killed or could not record its end" in (
        call("status", detached.path).out
    )


def test_a_detached_run_that_cannot_begin(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    done = spawn(PROGRAM, "train", job.path, "--detach", "--weights", "no.caffemodel", cwd=tmp_path)
    assert done.code == 2
    assert "caffe-batch: weights no.caffemodel: no such file\n" in done.err
    assert done.out == ""


def test_following_a_finished_job(finished: FinishedJob) -> None:
    done = call("train", "--follow", finished.job.path)
    assert done.code == 0, done.err
    assert done.out.startswith("Finished: 60 of 60 updates.\ntest:  accuracy 1, loss 0.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--follow", "{job}"], "nothing has been trained here yet"),
        (["train", "--follow", "{job}", "--cpu"], "--cpu: --follow only watches a run"),
        (["train", "--follow", "."], "there is no plan.json"),
        (["status", "no-such-directory"], "there is no plan.json"),
        (["stop", "{job}"], "nothing is running here; the job is planned"),
        (["report", "no-such-directory"], "there is no plan.json"),
        (["report"], "Missing argument 'DIR...'"),
    ],
)
def test_wrong_usage_of_looking_on(args: list[str], message: str, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    done = call(*(arg.format(job=job.path) for arg in args))
    assert done.code == 2, done.err
    assert message in done.err


def test_status_of_a_planned_job(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    assert call("status", job.path).out == (
        f"planned: update 0 of 60, learning rate 0.1, epoch 0.00\nfiles:    {job.path}\n"
    )


def test_status_of_several_jobs(finished: FinishedJob, tmp_path: Path) -> None:
    """A row for each; one that can't be read doesn't hide the others."""
    planned = write_job(tmp_path)
    jobs = (finished.job.path, planned.path)
    done = call("status", *jobs)
    assert done.code == 0
    header, one, other = (line.split() for line in done.out.splitlines())
    assert header == ["job", "state", "update", "of", "epoch", "loss", "left", "last", "test"]
    assert one[:4] == [str(finished.job.path), "finished", "60", "60"]
    assert one[6:8] == ["-", "accuracy"]
    assert other == [str(planned.path), "planned", "0", "60", "0.00", "-", "-", "-"]
    wrong = call("status", finished.job.path, tmp_path / "nothing", planned.path)
    assert wrong.code == 2
    rows = [line.split()[:2] for line in wrong.out.splitlines()[1:]]
    assert [state for _, state in rows] == ["finished", "unreadable", "planned"]
    assert "there is no plan.json" in wrong.err
    listed = json.loads(call("status", *jobs, "--json").out)
    assert [each["directory"] for each in listed] == list(map(str, jobs))
    own = json.loads(call("status", jobs[0], "--json").out)
    assert listed[0] == {"directory": str(jobs[0]), **own}
    unread = json.loads(call("status", jobs[0], tmp_path / "nothing", "--json").out)[1]
    assert unread["state"] is None
    assert "there is no plan.json" in unread["problem"]


def test_fine_tuning_and_tensorboard(finished: FinishedJob, tmp_path: Path) -> None:
    weights = list_snapshots(finished.job.snapshots)[-1].weights
    job = write_job(tmp_path, max_iter=5, base_lr=0.0, random_seed=3)
    done = spawn(PROGRAM, "train", job.path, "--weights", weights, "--tensorboard")
    assert done.code == 0, done.err
    first, *_ = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert first.loss is not None
    assert first.loss < 0.1  # the fillers' values give about ln 4
    assert len(list(job.tensorboard.glob("events.out.tfevents.*"))) == 1


def test_a_report_from_the_command_line(finished: FinishedJob, tmp_path: Path) -> None:
    done = call("report", finished.job.path)
    assert (done.code, done.out) == (0, f"{finished.job.report}\n")
    assert finished.job.report.read_text().startswith("<!DOCTYPE html>")
    page = tmp_path / "page.html"
    done = call("report", finished.job.path, "--out", page, "--figures", tmp_path / "figures")
    assert (done.code, done.out) == (0, f"{page}\n")
    assert f"wrote {tmp_path / 'figures' / 'loss.svg'}\n" in done.err
    done = call("report", finished.job.path, "--json")
    (run,) = json.loads(done.out)["runs"]
    assert (run["state"], run["updates"]) == ("finished", 60)
    assert len(run["curves"]["loss"]) == 60


def test_a_watched_report_ends_with_the_run(detached: JobDirectory) -> None:
    with subprocess.Popen(
        [PROGRAM, "report", "--watch", detached.path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"{detached.report}\n"
        page = detached.report.read_text()
        assert '<meta http-equiv="refresh" content="5">' in page
        assert '<span class="state running">' in page
        first = detached.report.stat().st_mtime_ns
        wait_for(lambda: detached.report.stat().st_mtime_ns > first)
        assert call("stop", detached.path).code == 0
        rest, err = watching.communicate(timeout=PATIENCE_S)
    assert (watching.returncode, rest, err) == (0, "", "")
    page = detached.report.read_text()
    assert 'http-equiv="refresh"' not in page
    assert '<span class="state interrupted">' in page


def test_watching_ends_at_once_where_nothing_runs(finished: FinishedJob, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = call("report", finished.job.path, "--watch", "--out", page)
    assert (done.code, done.out) == (0, f"{page}\n")
    assert '<span class="state finished">' in page.read_text()
    done = call("report", finished.job.path, "--watch", "--json")
    assert done.code == 2
    assert "--json: --watch only writes the page" in done.err
