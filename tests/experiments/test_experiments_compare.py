"""Several trainings on real Caffe: compared, resumed, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from caffe_batch.device import Device
from caffe_batch.errors import DoesNotFitError, InputError
from caffe_batch.experiments import compare as compare_module
from caffe_batch.experiments.compare import CompareOptions, Training, compare
from caffe_batch.experiments.standings import Comparison, SeedRun
from caffe_batch.jobs.job_copy import copy_job
from caffe_batch.jobs.metrics import NetTestMetrics, read_metrics
from caffe_batch.jobs.strategy_files import write_strategies
from caffe_batch.planning.strategies.strategies import find_strategies
from caffe_batch.reporting.compare_view import compare_view
from caffe_batch.runtimes import Runtime
from caffe_batch.training import JobDirectory, JobState, Options, Progress
from caffe_batch.training.process import SignalRelay, forwarded_signals
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.holding import PATIENCE_S, Hold, is_alive, wait_for
from tests.small_memory import BATCH, SOLVER, options, read_model, tight, write_recipe

CPU = Options(device=Device.CPU)


class Notes:
    """What was heard of the trainings."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []
        self.updates: list[int] = []

    def progress(self, training: Training, progress: Progress) -> None:
        self.updates.append(progress.update)

    def ended(self, training: Training, run: SeedRun) -> None:
        self.ends.append((training.name, training.seed))


def write(folder: Path, solver: str = SOLVER) -> Path:
    """A directory of strategies, as `strategies --out` writes it."""
    model = read_model(write_recipe(folder, solver=solver))
    found = find_strategies(model, tight(model), options(), None)
    write_strategies(found, None, {}, folder / "run")
    return folder / "run"


def settings(*names: str, seeds: tuple[int, ...] = (1, 2), jobs: int = 2) -> CompareOptions:
    return CompareOptions(names, seeds, jobs, CPU)


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, caffes_runtime: Runtime
) -> tuple[Path, Comparison, Notes]:
    """Two ways with two seeds, two trainings at once."""
    directory, notes = write(tmp_path_factory.mktemp("compared")), Notes()
    found = compare(directory, caffes_runtime, settings("small-linear", "accumulate"), notes)
    return directory, found, notes


def test_two_ways_with_two_seeds(compared: tuple[Path, Comparison, Notes]) -> None:
    directory, found, notes = compared
    assert sorted(notes.ends) == [
        ("accumulate", 1), ("accumulate", 2), ("small-linear", 1), ("small-linear", 2),
    ]  # fmt: skip
    assert (found.score_name, found.loss_name) == ("accuracy", "loss")
    assert [each.name for each in found.standings] == ["accumulate", "small-linear"]
    for standing in found.standings:
        assert (standing.failed, standing.diverged) == (0, 0)
        assert [point[0].samples for point in standing.points()] == [0, 10 * BATCH, 20 * BATCH]
        for run in standing.runs:
            job = JobDirectory(directory / run.directory)
            last = [each for each in read_metrics(job.metrics)
                    if isinstance(each, NetTestMetrics)][-2:]  # fmt: skip
            assert [each.value for each in last] == [run.points[-1].score, run.points[-1].loss]
            record = job.read_record()
            assert record is not None
            assert (record.state, record.seed) == (JobState.FINISHED, run.seed)
    first, second = (run.points[-1].loss for run in found.standings[0].runs)
    assert first != second  # the seeds are at work


def test_accumulation_and_the_whole_batch_are_one_training(
    caffes_runtime: Runtime, compared: tuple[Path, Comparison, Notes]
) -> None:
    """Both see the same samples from the same first weights: so do their scores, nearly."""
    found = compare(compared[0], caffes_runtime, settings("accumulate", "cpu"), Notes())
    accumulated, whole = found.standings
    for one, other in zip(accumulated.runs, whole.runs, strict=True):
        assert one.points[-1].loss == pytest.approx(other.points[-1].loss, rel=1e-3)


def test_what_is_finished_isnt_run_again(
    caffes_runtime: Runtime, compared: tuple[Path, Comparison, Notes]
) -> None:
    directory, before, _ = compared
    notes = Notes()
    again = compare(directory, caffes_runtime, settings("small-linear", "accumulate"), notes)
    assert notes.updates == []
    assert len(notes.ends) == 4
    assert again == before
    more = compare(directory, caffes_runtime, settings("accumulate", seeds=(1, 2, 3)), notes)
    record = JobDirectory(directory / "runs/accumulate/seed-1").read_record()
    assert record is not None
    assert len(record.attempts) == 1
    assert len(more.standings[0].runs) == 3


def test_a_training_that_fails_is_reported_beside_the_others(
    tmp_path: Path, runtime: Runtime
) -> None:
    directory = write(tmp_path)
    net = directory / "small" / "net.prototxt"
    net.write_text(net.read_text().replace('bottom: "ip2"', 'bottom: "gone"'))
    found = compare(directory, runtime, settings("small", "small-linear", seeds=(1,)), Notes())
    small, linear = found.standings
    assert (small.failed, linear.failed) == (1, 0)
    assert "'gone'" in small.runs[0].failure
    assert found.score_name == "accuracy"


def test_a_way_that_does_not_fit_or_is_refused_stops_only_itself(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four kinds of both, in the middle of those that go on; the next call tries them again."""
    directory = write(tmp_path)
    names = ("accumulate", "small", "small-linear", "small-sqrt", "cpu")
    (directory / "small-linear" / "plan.json").write_text("{}")
    (directory / "small-sqrt" / "solver.prototxt").write_text("max_iter: many")
    (directory / "runs" / "small").mkdir(parents=True)
    job = JobDirectory(copy_job(directory / "small", directory / "runs/small/seed-1", 1).directory)
    job.metrics.symlink_to(tmp_path / "elsewhere")

    def does_not_fit(job: JobDirectory, *args: Any, **keywords: Any) -> Any:
        if "accumulate" in str(job.path):
            raise DoesNotFitError("out of memory with 1 as well", missing_bytes=1)
        return train(job, *args, **keywords)

    for error, kept in ((does_not_fit, 1), (train, 2)):
        monkeypatch.setattr(compare_module, "train", error)
        found = compare(directory, runtime, settings(*names, seeds=(1,)), Notes())
        failures = {way.name: way.runs[0].failure for way in found.standings if way.failed}
        assert len(failures) == len(names) - kept
        assert failures.get("accumulate", "out of memory with 1 as well").startswith("out of")
        assert "is a link to" in failures["small"]
        assert "plan.json" in failures["small-linear"]
        assert "max_iter" in failures["small-sqrt"]
        (done,) = (way for way in found.standings if way.name == "cpu")
        assert done.runs[0].points[-1].score is not None
        said = json.loads((directory / "compare.json").read_text())["strategies"]
        shown = {each["name"]: each["runs"][0]["failure"] for each in said}
        assert {name: why for name, why in shown.items() if why} == failures
        view = Console(width=2000, file=StringIO())
        view.print(compare_view(found))
        assert isinstance(view.file, StringIO)
        for why in failures.values():
            assert f"1 of 1 failed, {why}" in view.file.getvalue()


def test_a_stop_reaches_a_training_that_is_about_to_begin(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment before its relay is there, as when finished trainings pass quickly."""

    all_relays: list[SignalRelay] = []

    def forwarded(relay: SignalRelay) -> AbstractContextManager[None]:
        all_relays.append(relay)
        return forwarded_signals(relay)

    class Late(SignalRelay):
        def __init__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: all_relays[0].stop_requested)
            super().__init__()

    directory = write(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(compare_module, "forwarded_signals", forwarded)
    monkeypatch.setattr(compare_module, "SignalRelay", Late)
    with pytest.raises(KeyboardInterrupt):
        compare(directory, runtime, settings("small", seeds=(1, 2)), Notes())
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(directory.glob("runs/*/*/job.json"))


@pytest.mark.both
def test_divergence_is_reported(tmp_path: Path, runtime: Runtime) -> None:
    directory = write(tmp_path, SOLVER.replace("base_lr: 0.08", "base_lr: 1e30"))
    found = compare(directory, runtime, settings("accumulate", seeds=(1,)), Notes())
    (standing,) = found.standings
    assert standing.diverged == 1
    assert standing.json()["loss"]["mean"] is None


@pytest.mark.parametrize(
    ("names", "says"),
    [(("smal",), "there is no strategy 'smal'"), (("grow",), "'grow' is not possible here: an")],
)
def test_ways_that_arent_there(
    tmp_path: Path, runtime: Runtime, names: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        compare(write(tmp_path), runtime, settings(*names), Notes())
    assert not (tmp_path / "run" / "runs").exists()


def test_a_recipe_without_a_test(tmp_path: Path, runtime: Runtime) -> None:
    solver = SOLVER.replace("test_iter: 7  test_interval: 10", "")
    with pytest.raises(InputError, match="the recipe has no tests"):
        compare(write(tmp_path, solver), runtime, settings("small"), Notes())


def test_a_directory_without_strategies(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"there is no strategies\.json"):
        compare(tmp_path, runtime, settings(), Notes())
    (tmp_path / "strategies.json").write_text('{"strategies": [{"name": 1}]}')
    with pytest.raises(InputError, match="there is no recipe"):
        compare(tmp_path, runtime, settings(), Notes())


@pytest.mark.usefixtures("runtime")
def test_ctrl_c_stops_every_training_and_the_next_call_continues(tmp_path: Path) -> None:
    longer = SOLVER.replace("max_iter: 20", "max_iter: 40")
    directory = write(tmp_path, longer)
    command = [
        sys.executable, "-m", "caffe_batch", "compare", str(directory), "--jobs", "2", "--cpu",
        "--seeds", "1",
    ]  # fmt: skip
    names = ("small", "smaller-input", "cpu")
    three = [f"--strategy={name}" for name in names]
    holds = [Hold(JobDirectory(directory / name), 3, iter_size=1) for name in names[:2]]
    process = subprocess.Popen(
        [*command, *three], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{directory}:{Path.cwd()}"},
    )  # fmt: skip
    jobs = [JobDirectory(directory / f"runs/{name}/seed-1") for name in names]
    wait_for(lambda: all(hold.reached for hold in holds) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors.strip()) == (130, "Interrupted.")
    for job in jobs[:2]:
        record = job.read_record()
        assert record is not None
        assert record.state is JobState.INTERRUPTED
        assert 3 <= record.updates_done <= 4
        assert not is_alive(record.attempts[-1].pid)
    assert not jobs[2].record.exists()
    assert not (directory / "compare.json").exists()
    for hold in holds:
        hold.release()
    done = subprocess.run(
        [*command, "--strategy=smaller-input", "--json"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{directory}:{Path.cwd()}"}, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (way,) = json.loads(done.stdout)["strategies"]
    assert way["runs"][0]["score"] > 0
    record = jobs[1].read_record()
    assert record is not None
    assert [each.ending for each in record.attempts] == ["interrupted", "finished"]
    assert record.attempts[1].resumed_from is not None
