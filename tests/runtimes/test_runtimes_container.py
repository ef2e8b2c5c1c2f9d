"""Containers as runtimes: the command lines for the engines, and trainings with a fake engine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import runtimes
from caffe_batch.errors import InputError, RuntimeMissingError, TrainingError
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import container
from caffe_batch.runtimes.base import WorkerPlaces
from caffe_batch.runtimes.container import Container
from caffe_batch.training.process import SignalRelay, WorkerProcess
from caffe_batch.training.supervisor import train
from tests.command import Result, call, spawn
from tests.experiments.regression import write_regression
from tests.holding import LONG, Hold, WhenHeld, is_alive, wait_for
from tests.planned_jobs import write_job

FAKE = Path(__file__).with_name("fake_engine.py")
PACKAGE = Path(container.__file__).parents[1]


@dataclass(frozen=True)
class Engine:
    """A fake engine on the PATH whose only image holds the machine's runtime."""

    folder: Path

    def calls(self, verb: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [call for line in lines if (call := json.loads(line))[0] == verb]

    def running(self) -> list[int]:
        pids = [int(path.read_text()) for path in self.folder.glob("*.pid")]
        return [pid for pid in pids if is_alive(pid)]


@pytest.fixture
def engine(
    runtime: runtimes.Runtime,
    program: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    folder = tmp_path / "engine"
    folder.mkdir()
    program("docker", f'exec {shlex.join([sys.executable, str(FAKE), str(folder)])} "$@"')
    own = runtime.environment()
    changed = {name: value for name, value in own.items() if os.environ.get(name) != value}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in changed.items())
    path = program("caffe-python", f'{exports}exec {shlex.join(runtime.command([]))} "$@"')
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    fake = Engine(folder)
    yield fake
    for pid in fake.running():
        os.kill(pid, signal.SIGKILL)


def docker() -> runtimes.Runtime:
    return Container("docker", "docker", "caffe-batch")


def options(call: list[str], name: str) -> list[str]:
    return [text.partition("=")[2] for text in call if text.startswith(f"--{name}=")]


def test_names() -> None:
    assert container.container("docker") == Container("docker", "docker", "caffe-batch")
    found = container.container("podman:site:5/caffe:1")
    assert found == Container("podman:site:5/caffe:1", "podman", "site:5/caffe:1")
    assert container.container("docker:") is None
    assert container.container("dockers") is None


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeMissingError, match="the runtime podman:some can't be started"):
        runtimes.find("podman:some")


def test_a_training_goes_through_the_engine(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    job = write_job(tmp_path)
    outcome = train(job, runtimes.find("docker:an/image:2"))
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 60)
    (accuracy,) = (score.value for score in outcome.scores if score.output == "accuracy")
    assert accuracy is not None
    assert accuracy > 0.9
    call = engine.calls("run")[-1]
    (name,) = options(call, "name")
    assert name.startswith("caffe-batch-job-")
    assert call[call.index("--entrypoint=sh") + 1] == "an/image:2"
    assert options(call, "user") == [f"{os.getuid()}:{os.getgid()}"]
    assert options(call, "workdir") == [str(tmp_path)]
    assert options(call, "mount") == [
        f"type=bind,source={PACKAGE},target={PACKAGE},readonly",
        f"type=bind,source={tmp_path},target={tmp_path}",
    ]
    assert "--rm" in call
    assert engine.calls("rm")[-1] == ["rm", "--force", name]
    assert not job.worker_events.exists()


def test_data_elsewhere_is_shown_to_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, work, data = tmp_path / "jobs" / "my job", tmp_path / "work", tmp_path / "data"
    modules = tmp_path / "modules"
    for folder in (job, work, data / "train_lmdb", modules):
        folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{work}")
    places = WorkerPlaces(job, work, (data, data / "train_lmdb", tmp_path / "no"), job / "events")
    made = docker().for_worker(lambda: places)
    assert isinstance(made, Container)
    assert options(made.command([]), "mount")[1:] == [
        f"type=bind,source={job},target={job}",
        f"type=bind,source={work},target={work}",
        f"type=bind,source={data},target={data},readonly",
        f"type=bind,source={modules},target={modules},readonly",
    ]
    assert str(made.container).startswith("caffe-batch-my-job-")
    other = docker().for_worker(lambda: WorkerPlaces(work / "my job", work, (), job / "events"))
    assert isinstance(other, Container)
    assert other.container != made.container


def test_a_comma_would_end_a_mount(tmp_path: Path) -> None:
    job, work = tmp_path / "a,b", tmp_path / "work"
    job.mkdir()
    made = docker().for_worker(lambda: WorkerPlaces(job, work, (), job / "events"))
    with pytest.raises(InputError, match="a,b: a folder with a comma in its name"):
        made.command([])


def test_gpus_are_asked_for_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    podman = Container("podman", "podman", "caffe-batch")
    monkeypatch.setattr(container, "has_driver", lambda: True)
    assert "--gpus=all" in docker().command([])
    assert "--device=nvidia.com/gpu=all" in podman.command([])
    monkeypatch.setattr(container, "has_driver", lambda: False)
    assert "--gpus=all" not in docker().command([])
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert "--userns=keep-id" in podman.command([])
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert "--userns=keep-id" not in podman.command([])


def test_a_stop_reaches_the_worker_and_it_continues_later(engine: Engine, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    relay = SignalRelay()
    stop = WhenHeld(Hold(job, 50), lambda: relay.stop(signal.SIGTERM))
    outcome = train(job, docker(), None, stop, relay=relay)
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 50)
    assert list(job.snapshots.glob("*_iter_50.solverstate"))
    assert engine.running() == []


def test_a_client_that_is_killed_leaves_no_container(engine: Engine, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)

    def kill_client() -> None:
        record = job.read_record()
        assert record is not None
        os.kill(record.attempts[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="killed by SIGKILL"):
        train(job, docker(), None, WhenHeld(Hold(job, 50), kill_client))
    wait_for(lambda: not engine.running())


def test_a_container_whose_supervisor_is_killed_takes_a_snapshot(
    engine: Engine, tmp_path: Path
) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 50)
    results: list[Result] = []
    command = (sys.executable, "-m", "caffe_batch", "train", job.path, "--runtime", "docker", "-q")
    supervisor = threading.Thread(target=lambda: results.append(spawn(*command)))
    supervisor.start()
    hold.wait()
    os.kill(_supervisor_of(job.path), signal.SIGKILL)
    supervisor.join()
    assert results[0].code == -signal.SIGKILL
    hold.release()
    wait_for(lambda: not engine.running())
    assert list(job.snapshots.glob("*_iter_50.solverstate"))


def test_the_fake_engine_shows_only_what_is_mounted(engine: Engine, tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    settings = json.dumps({"deep": [{"net": str(tmp_path / "net.prototxt")}]})
    for command in (["-c", "", settings], ["-c", "", str(tmp_path)]):
        done = spawn(*docker().command(command))
        assert (done.code, str(tmp_path) in done.err) == (125, True)
    places = WorkerPlaces(tmp_path, tmp_path, (), tmp_path / "no fifo")
    made = docker().for_worker(lambda: places).command(["-c", "", settings])
    assert spawn(*made).code == 0


def test_noise_is_measured_in_the_container(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    regression = write_regression(tmp_path / "elsewhere", records=200, batch_size=8)
    command = ("noise", regression.solver, "--groups", 5, "--passes", 2, "--json")
    found = call(*command, "--runtime", "docker")
    assert found.code == 0, found.err
    assert json.loads(found.out) == json.loads(call(*command).out)
    folder = Path(options(engine.calls("run")[-1], "mount")[1].rpartition("=")[2])
    assert folder.name.startswith("caffe-batch-")
    assert not folder.exists()
    assert engine.calls("rm")[-1][-1] == options(engine.calls("run")[-1], "name")[0]


def test_weights_elsewhere_are_shown_to_be_read_only(
    engine: Engine, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Outside of the directory in which the job was planned, which the worker may write to."""
    job = write_job(tmp_path, max_iter=5)
    train(job, runtimes.find())
    weights = tmp_path_factory.mktemp("zoo") / "tiny.caffemodel"
    (job.snapshots / "tiny_iter_5.caffemodel").rename(weights)
    command = ("noise", job.solver, "--groups", 5, "--passes", 2, "--weights", weights, "--json")
    found = call(*command, "--runtime", "docker")
    assert found.code == 0, found.err
    assert json.loads(found.out) == json.loads(call(*command).out)
    mounts = options(engine.calls("run")[-1], "mount")
    assert f"type=bind,source={weights.parent},target={weights.parent},readonly" in mounts


def test_a_verification_runs_in_the_container(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, clip_gradients=0.05)
    monkeypatch.chdir(job.path)  # the data lies in a folder beside it
    command = ("verify", job.solver, "--batch-size", 2, "--json")
    found = call(*command, "--runtime", "docker")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert told == json.loads(call(*command).out)
    assert not any(use["made"] for use in told["data"])
    (name,) = options(engine.calls("run")[-1], "name")
    assert engine.calls("rm")[-1] == ["rm", "--force", name]


def test_strategies_are_compared_in_the_container(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, max_iter=10, test_interval=5)
    out = tmp_path / "ways"
    made = call("strategies", job.solver, "--gpu-memory", "1GiB", "--out", out, "--json")
    assert made.code == 0, made.err
    found = call(
        "compare", out, "--strategy", "accumulate", "--seeds", 1, "--runtime", "docker", "--json"
    )
    assert found.code == 0, found.err
    (name,) = {name for run in engine.calls("run") for name in options(run, "name")}
    assert "seed-1" in name


@pytest.mark.parametrize("command", [("noise", "--groups", 10_000), ("verify",)])
def test_an_interrupted_measurement_leaves_no_container(
    engine: Engine, tmp_path: Path, command: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path)

    def interrupt(worker: WorkerProcess, timeout_s: float) -> Iterator[Any]:
        wait_for(engine.running)  # the container is there
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkerProcess, "listen", interrupt)
    done = call(command[0], job.solver, *command[1:], "--runtime", "docker")
    assert done.code == 130
    wait_for(lambda: not engine.running())


def _supervisor_of(job: Path) -> int:
    """The process that runs ``train`` on a job."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:5] == [b"-m", b"caffe_batch", b"train", os.fsencode(job)]:
            return int(path.parent.name)
    raise AssertionError("no supervisor")
