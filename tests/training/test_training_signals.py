"""Signals: prompt in the middle of a long update, and without a trace in what is learned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from caffe_batch import engines
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.work import Work
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.process import WorkerProcess
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import TRAIN
from tests.both_engines import runtime as runtime
from tests.holding import is_alive, wait_for
from tests.planned_jobs import NET, nowhere, write_job, write_lmdb

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


@pytest.mark.both
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
    """SIGHUP: the snapshot is that of the update before, and the update continues."""
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
    asked = False

    def interrupt(_: object) -> None:
        nonlocal asked
        if not asked and list_snapshots(job.snapshots):  # it has answered SIGHUP
            asked = True
            os.kill(os.getpid(), signal.SIGUSR1)

    handler = signal.getsignal(signal.SIGUSR1)
    outcome = train(job, runtime, observer=interrupt, script=SIGNALLED)
    assert asked
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 0)
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_a_warning_and_an_end_leave_time_for_the_snapshot(tmp_path: Path) -> None:
    """A batch system sends SIGUSR1, then SIGTERM; a person presses Ctrl-C again."""
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('still there', flush=True))\n"
        "print('deaf', flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "log"
    worker = WorkerProcess(
        Interpreter(sys.executable), engines.find(), Work(script, {}), nowhere,
        log=log, working_directory=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: "deaf" in log.read_text())
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            worker.stop(number)
        os.kill(worker.pid, signal.SIGUSR2)
        wait_for(lambda: "still there" in log.read_text())  # SIGKILL would have come before
        worker.stop(signal.SIGINT)
        ending = worker.ending()
    finally:
        worker.end()
    assert (ending.reason, ending.detail) == (
        EndReason.INTERRUPTED, "killed immediately, on a second request",
    )  # fmt: skip


def test_a_worker_alone_ends_amid_an_update(runtime: Runtime, tmp_path: Path) -> None:
    """Its supervisor was killed; the update would take hours."""
    job = write_job(tmp_path, iter_size=LONG, test_initialization="false")
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(job.path), runtime.name]) as supervisor:
        wait_for(lambda: job.log.exists() and "Learning Rate Policy" in job.log.read_text())
        supervisor.kill()
    record = job.read_record()
    assert record is not None
    wait_for(lambda: not is_alive(record.attempts[0].pid))
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [0]


SLOW_SETUP = """
import os, time
import caffe

class Slow(caffe.Layer):
    def setup(self, bottom, top):
        if os.path.exists(self.param_str):
            open(self.param_str + ".reached", "w").close()
            while os.path.exists(self.param_str):
                time.sleep(0.005)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass
"""


@pytest.mark.both
def test_a_stop_while_the_nets_are_built(runtime: Runtime, tmp_path: Path) -> None:
    """It is heard as soon as there is something to save, and the run goes on from there."""
    (tmp_path / "slow_setup.py").write_text(SLOW_SETUP)
    file = tmp_path / "held"
    file.touch()
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8) + (
        f'layer {{ name: "slow" type: "Python" bottom: "label" include {{ phase: TRAIN }} '
        f'python_param {{ module: "slow_setup" layer: "Slow" param_str: "{file}" }} }}'
    )
    job = write_job(tmp_path, net=net, max_iter=5)
    reached = tmp_path / "held.reached"

    def stop(progress: Progress) -> None:
        if reached.exists() and file.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            file.unlink()

    outcome = train(job, runtime, observer=stop)
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 0)
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [0]
    assert train(job, runtime).update == 5


@dataclass(frozen=True)
class Waiting(Runtime):
    """A runtime whose worker doesn't start, and so hears no signal, before a file is there."""

    inner: Runtime
    file: Path

    def command(self, args: Sequence[str]) -> list[str]:
        waiting = 'until [ -e "$0" ]; do sleep 0.01; done; exec "$@"'
        return ["sh", "-c", waiting, str(self.file), *self.inner.command(args)]

    def environment(self) -> dict[str, str]:
        return self.inner.environment()


def test_sighup_before_the_worker_listens_does_not_end_it(runtime: Runtime, tmp_path: Path) -> None:
    """Nothing is to be saved then; the default action of the signal would end the worker."""
    job = write_job(tmp_path, max_iter=5)
    file = tmp_path / "listens"

    def hang_up(progress: Progress) -> None:
        if not file.exists():
            os.kill(os.getpid(), signal.SIGHUP)
            file.touch()

    assert train(job, Waiting(runtime.name, runtime, file), observer=hang_up).update == 5
    record = job.read_record()
    assert record is not None
    assert [attempt.ending for attempt in record.attempts] == ["finished"]
