"""The supervisor with real workers, real signals and real deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import TRAIN
from tests.both_engines import runtime as runtime
from tests.holding import LONG, Hold, WhenHeld, is_alive, signal_self, wait_for
from tests.planned_jobs import RECORDS, FinishedJob, write_job

FAKE = Path(__file__).with_name("fake_worker.py")


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


class SignalAtUpdate:
    """An observer that sends this process a signal, as a person's Ctrl-C would, at an update."""

    def __init__(self, update: int, *numbers: signal.Signals) -> None:
        self.update, self.numbers = update, list(numbers)

    def __call__(self, progress: Progress) -> None:
        if self.numbers and progress.update >= self.update:
            os.kill(os.getpid(), self.numbers.pop(0))


def test_a_job_from_start_to_finish(finished: FinishedJob) -> None:
    job, outcome = finished.job, finished.outcome
    assert (outcome.state, outcome.update, outcome.updates) == (JobState.FINISHED, 60, 60)
    assert [(score.update, score.output) for score in outcome.scores] == [
        (60, "accuracy"),
        (60, "loss"),
    ]
    assert outcome.scores[0].value == 1.0
    record = record_of(job)
    assert (record.state, record.updates_done, record.updates) == (JobState.FINISHED, 60, 60)
    assert record.seed == 1
    (attempt,) = record.attempts
    assert (attempt.first_update, attempt.last_update, attempt.ending) == (0, 60, "finished")
    assert attempt.engine_version == "1.0.0"
    assert attempt.resumed_from is None
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [25, 50, 60]


def test_metrics_of_every_update_and_test(finished: FinishedJob) -> None:
    lines = list(read_metrics(finished.job.metrics))
    updates = [line for line in lines if isinstance(line, UpdateMetrics)]
    assert [line.update for line in updates] == list(range(1, 61))
    assert [line.samples for line in updates] == list(range(18, 61 * 18, 18))
    assert updates[34].epoch == pytest.approx(35 * 18 / RECORDS)
    # The step policy: 50 updates at 0.1, then half of it.
    assert [line.learning_rate for line in updates] == 50 * [0.1] + 10 * [0.05]
    assert [line.seconds for line in updates] == sorted(line.seconds for line in updates)
    tests = [line for line in lines if isinstance(line, NetTestMetrics)]
    assert [(line.update, line.output) for line in tests] == [
        (update, output) for update in (0, 20, 40, 60) for output in ("accuracy", "loss")
    ]


def test_what_an_observer_sees(finished: FinishedJob) -> None:
    last = finished.seen[-1]
    assert last.training
    assert last.updates == 60
    assert (last.update, last.samples, last.left_s) == (60, 60 * 18, 0)
    assert last.samples_per_s
    assert last.loss == last.losses[-1]
    assert len(last.losses) == 60
    assert last.scores == finished.outcome.scores


def test_a_finished_job_is_not_trained_again(
    finished: FinishedJob, caffes_runtime: Runtime
) -> None:
    log = finished.job.log.read_bytes()
    outcome = train(finished.job, caffes_runtime)
    assert (outcome.ran, outcome.state, outcome.update) == (False, JobState.FINISHED, 60)
    assert outcome.scores == finished.outcome.scores
    assert finished.job.log.read_bytes() == log


def test_restart_throws_the_earlier_run_away(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=20)
    train(job, runtime)
    first = job.metrics.read_text()
    outcome = train(job, runtime, Options(restart=True))
    assert outcome.ran
    assert len(record_of(job).attempts) == 1
    assert len(job.metrics.read_text().splitlines()) == len(first.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_continues(
    number: signal.Signals, runtime: Runtime, tmp_path: Path
) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    stopped = 50
    handler = signal.getsignal(number)
    outcome = train(job, runtime, observer=WhenHeld(Hold(job, stopped), signal_self(number)))
    assert signal.getsignal(number) is handler
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, stopped)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [stopped]
    record = record_of(job)
    assert (record.state, record.updates_done) == (JobState.INTERRUPTED, stopped)
    assert not is_alive(record.attempts[0].pid)

    end = stopped + 30
    text = job.solver.read_text().replace(f"max_iter: {LONG}", f"max_iter: {end}")
    job.solver.write_text(text)
    seen: list[Progress] = []
    outcome = train(job, runtime, observer=seen.append)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, end)
    assert seen[0].notes[0].startswith(f"Continuing from update {stopped} (tiny_iter_{stopped}.")
    first, second = record_of(job).attempts
    assert (first.ending, first.first_update, first.last_update) == ("interrupted", 0, stopped)
    assert (second.ending, second.first_update, second.last_update) == ("finished", stopped, end)
    assert second.resumed_from == str(job.snapshots / f"tiny_iter_{stopped}.solverstate")
    updates = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    numbers = [line.update for line in updates]
    assert numbers == sorted(set(numbers))  # none twice
    assert stopped in numbers
    assert numbers[-1] == end
    seconds = [line.seconds for line in updates]
    assert seconds == sorted(seconds)


def test_hangup_takes_a_snapshot_and_continues(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hangup = WhenHeld(Hold(job, 20), signal_self(signal.SIGHUP))
    stop = WhenHeld(Hold(job, 30), signal_self(signal.SIGINT))

    def observer(progress: Progress) -> None:
        hangup(progress)
        stop(progress)

    outcome = train(job, runtime, observer=observer)
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 30)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [20, 30]


def test_a_stop_during_a_long_test(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, test_iter=100_000_000)  # hours
    asked = False

    def when_testing(progress: Progress) -> None:
        nonlocal asked
        if not asked and job.log.exists() and "Testing net" in job.log.read_text():
            asked = True
            os.kill(os.getpid(), signal.SIGINT)

    outcome = train(job, runtime, observer=when_testing)
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 0)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [0]


def test_a_second_request_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hang")
    job = write_job(tmp_path)
    outcome = train(
        job,
        Interpreter(sys.executable),
        observer=SignalAtUpdate(3, signal.SIGINT, signal.SIGINT),
        script=FAKE,
    )
    assert outcome.state is JobState.INTERRUPTED
    (attempt,) = record_of(job).attempts
    assert attempt.detail == "killed immediately, on a second request"
    assert not is_alive(attempt.pid)


def test_only_the_worker_group_gets_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hang")
    job = write_job(tmp_path)
    groups: list[int] = []

    def note_group(progress: Progress) -> None:
        if progress.training and not groups:
            pid = record_of(job).attempts[0].pid
            groups.extend([os.getpgid(pid), os.getsid(pid), pid])
        interrupt(progress)

    interrupt = SignalAtUpdate(3, signal.SIGINT, signal.SIGINT)
    with subprocess.Popen(["sleep", "infinity"]) as bystander:
        try:
            train(job, Interpreter(sys.executable), observer=note_group, script=FAKE)
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert groups == 3 * [groups[2]]
    assert groups[0] != os.getpgrp()


def test_in_a_thread_signals_are_left_to_the_program(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=20)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(job, runtime)))
    thread.start()
    thread.join()
    assert outcomes[0].state is JobState.FINISHED


def test_an_observer_that_fails_leaves_no_worker_behind(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 20)

    def fail(progress: Progress) -> None:
        if hold.reached:
            hold.release()
            raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError, match="the display broke"):
        train(job, runtime, observer=fail)
    assert not is_alive(record_of(job).attempts[0].pid)
    (snapshot,) = list_snapshots(job.snapshots)
    assert snapshot.update >= 20


@pytest.mark.both
def test_a_killed_supervisor_takes_its_worker_along(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 20)
    command = [sys.executable, "-c", TRAIN, str(job.path), runtime.name]
    with subprocess.Popen(command) as supervisor:
        hold.wait()
        record = record_of(job)
        with pytest.raises(JobBusyError, match="another `caffe-batch train` runs here"):
            train(job, runtime)
        supervisor.kill()
    hold.release()
    pid = record.attempts[0].pid
    wait_for(lambda: not is_alive(pid))
    assert record_of(job).state is JobState.RUNNING  # nobody was there to write it
    (snapshot,) = list_snapshots(job.snapshots)
    assert snapshot.update == 20
    text = job.solver.read_text().replace(str(LONG), "21")
    job.solver.write_text(text)
    outcome = train(job, runtime)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 21)


def test_the_last_words_are_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "burst")
    job = write_job(tmp_path, max_iter=10_000)
    outcome = train(job, Interpreter(sys.executable), script=FAKE)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 10_000)
    assert sum(1 for _ in read_metrics(job.metrics)) == 9998


def test_words_that_are_not_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "garble")
    job = write_job(tmp_path)
    with pytest.raises(TrainingError, match=r"isn't an event: 'loss = 0\.5'"):
        train(job, Interpreter(sys.executable), script=FAKE)
    assert not is_alive(record_of(job).attempts[0].pid)


def test_paths_in_the_net_start_where_the_plan_was_made(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    job.net.write_text(job.net.read_text().replace(str(tmp_path / "data"), "data"))
    assert train(job, runtime).update == 5
    assert record_of(job).attempts[0].working_directory == str(tmp_path)


def test_a_working_directory_that_is_gone_is_reported(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    job.plan.write_text(job.plan.read_text().replace(f'"{tmp_path}"', '"/no/such"'))
    seen: list[Progress] = []
    train(job, runtime, observer=seen.append)
    assert seen[0].notes[0].startswith("/no/such, where the plan was made, is gone")


def test_a_plan_for_cpu_mode_trains_on_the_cpu(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    job.plan.write_text(job.plan.read_text().replace("{", '{"mode": "cpu", ', 1))
    train(job, runtime)
    (attempt,) = record_of(job).attempts
    assert attempt.choices == ("Training on the CPU: the plan is for CPU mode.",)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("max_iter: 60", "max_iter: 0", "max_iter is 0, so there is no update to do"),
        ('"step"', '"stepp"', "Caffe has no lr_policy 'stepp'"),
    ],
)
def test_solvers_that_cannot_train(
    before: str, after: str, message: str, runtime: Runtime, tmp_path: Path
) -> None:
    job = write_job(tmp_path)
    job.solver.write_text(job.solver.read_text().replace(before, after))
    with pytest.raises(InputError, match=message):
        train(job, runtime)
    assert not job.record.exists()


def test_a_plan_for_several_gpus_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    job.plan.write_text(job.plan.read_text().replace('"gpus": 1', '"gpus": 2'))
    with pytest.raises(
        InputError, match=r"for 2 GPUs, but with Caffe train uses only one\nPlan with gpus=1"
    ):
        train(job, runtime, Options(engine="caffe"))
