"""Signals: prompt in the midst of a long update, and without a trace in what was learned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import Snapshot, list_snapshots
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.process import WorkerProcess
from caffe_batch.training.supervisor import train
from tests.planned_jobs import NET, write_job, write_lmdb
from tests.training.test_training_supervisor import is_alive, wait_for

SIGNALLED = Path(__file__).with_name("signalled_worker.py")

NORMALIZED = NET.replace(
    'layer {{ name: "relu1"',
    'layer {{ name: "norm1" type: "BatchNorm" bottom: "ip1" top: "ip1" }}\nlayer {{ name: "relu1"',
)

#: One update takes hours.
LONG = 1_000_000_000


def weights(snapshot: Snapshot) -> list[list[float]]:
    net = caffe_pb2.NetParameter()
    net.ParseFromString(snapshot.weights.read_bytes())
    return [list(blob.data) for layer in net.layer for blob in layer.blobs]


def losses(path: Path) -> list[tuple[int, float | None]]:
    return [
        (line.update, line.loss) for line in read_metrics(path) if isinstance(line, UpdateMetrics)
    ]


def test_an_update_is_given_up(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 7 of its 20 micro-batches, each of which has changed the net's statistics."""
    jobs = []
    for name in ("straight", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        net = NORMALIZED.format(data=write_lmdb(folder / "data"), batch_size=6, width=8)
        jobs.append(write_job(folder, net=net, iter_size=20, max_iter=6, snapshot=2))
    straight, stopped = jobs
    train(straight, runtime)
    monkeypatch.setenv("SIGNALLED", "67,SIGUSR1")
    outcome = train(stopped, runtime, script=SIGNALLED)
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 3)
    assert [snapshot.update for snapshot in list_snapshots(stopped.snapshots)] == [2, 3]
    monkeypatch.delenv("SIGNALLED")
    assert train(stopped, runtime).update == 6
    assert losses(stopped.metrics) == losses(straight.metrics)
    mine, own = (list_snapshots(job.snapshots)[-1] for job in (stopped, straight))
    assert weights(mine) == weights(own)


def test_a_snapshot_amid_an_update(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP: the snapshot is that of the update before, and the update goes on."""
    net = NORMALIZED.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8)
    job = write_job(tmp_path, net=net, iter_size=20, max_iter=6, snapshot=3)
    train(job, runtime)
    by_caffe = {each.update: weights(each) for each in list_snapshots(job.snapshots)}
    measured = losses(job.metrics)
    monkeypatch.setenv("SIGNALLED", "67,SIGHUP")
    job.solver.write_text(job.solver.read_text().replace("snapshot: 3\n", ""))
    train(job, runtime, Options(restart=True), script=SIGNALLED)
    by_request = {each.update: weights(each) for each in list_snapshots(job.snapshots)}
    assert by_request == by_caffe
    assert losses(job.metrics) == measured


def test_hours_of_an_update_are_not_waited_for(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, iter_size=LONG)
    monkeypatch.setenv("SIGNALLED", "1000,SIGHUP")
    asked: list[float] = []

    def interrupt(_: object) -> None:
        if not asked and list_snapshots(job.snapshots):  # it has answered SIGHUP
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGUSR1)

    handler = signal.getsignal(signal.SIGUSR1)
    outcome = train(job, runtime, observer=interrupt, script=SIGNALLED)
    assert time.monotonic() - asked[0] < 3
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 0)
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_a_warning_and_an_end_leave_time_for_the_snapshot(tmp_path: Path) -> None:
    """A batch system sends SIGUSR1, then SIGTERM; a person presses Ctrl-C again."""
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    worker = WorkerProcess(
        Interpreter(sys.executable), {}, log=log, working_directory=tmp_path,
        environment={}, script=script,
    )  # fmt: skip
    try:
        while "deaf" not in log.read_text():
            time.sleep(0.01)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            worker.stop(number)
        time.sleep(0.2)
        assert worker.running()
        worker.stop(signal.SIGINT)
        ending = worker.ending()
    finally:
        worker.end()
    assert (ending.reason, ending.detail) == (
        EndReason.INTERRUPTED, "killed at once, on a second request",
    )  # fmt: skip


def test_a_worker_alone_ends_amid_an_update(runtime: Runtime, tmp_path: Path) -> None:
    """Its supervisor was killed; the update would take hours."""
    job = write_job(tmp_path, iter_size=LONG, test_initialization="false")
    code = (
        "import sys; from caffe_batch import runtimes; "
        "from caffe_batch.training import JobDirectory, train; "
        "train(JobDirectory(sys.argv[1]), runtimes.find(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(job.path), runtime.name]) as supervisor:
        wait_for(lambda: job.log.exists() and "Learning Rate Policy" in job.log.read_text())
        supervisor.kill()
    record = job.read_record()
    assert record is not None
    wait_for(lambda: not is_alive(record.attempts[0].pid), timeout_s=10)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [0]


def test_sighup_before_the_worker_listens_is_no_end_of_it(runtime: Runtime, tmp_path: Path) -> None:
    """Nothing is to be saved then; the default action of the signal would end the worker."""
    job = write_job(tmp_path, max_iter=40)
    command = [sys.executable, "-m", "caffe_batch", "train", str(job.path), "--cpu", "-q"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}) as supervisor:
        wait_for(lambda: job.read_record() is not None)
        record = job.read_record()
        assert record is not None
        for _ in range(20):  # from its very begin on
            os.kill(supervisor.pid, signal.SIGHUP)
            time.sleep(0.01)
        assert supervisor.wait(timeout=60) == 0
    record = job.read_record()
    assert record is not None
    assert [attempt.ending for attempt in record.attempts] == ["finished"]
