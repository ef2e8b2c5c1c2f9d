"""What every engine must do, whichever it is: the rest of the program counts on no more."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import (
    Built,
    Diverged,
    Finished,
    GradientNorms,
    LogEvent,
    NetTestOutput,
    NetTestStarted,
    Refused,
    SnapshotTaken,
    Started,
    Stopped,
    Updated,
    WorkerEvent,
)
from caffe_batch.engines.snapshots import DamagedSnapshotError
from caffe_batch.engines.work import (
    NoiseRequest,
    TrainingRequest,
    VariantRun,
    VerificationRequest,
    Work,
)
from caffe_batch.errors import InputError, RuntimeMissingError, in_python, in_shell
from caffe_batch.experiments.worker import WorkerEnd, run_worker
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.stages import read_stages
from caffe_batch.layers.loading import installed_rules
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.sources import Sources
from caffe_batch.planning.audit.findings import Verdict
from caffe_batch.runtimes import Runtime
from caffe_batch.training.process import WorkerProcess
from tests.holding import LONG, Hold
from tests.planned_jobs import CLASSES, HEIGHT, WIDTH, nowhere, write_job

Event = WorkerEvent | LogEvent


@pytest.fixture(params=engines.NAMES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engines.find(request.param)


@pytest.fixture
def runtime(engine: Engine) -> Runtime:
    try:
        return runtimes.find(None, engine)
    except RuntimeMissingError as error:
        pytest.fail(f"this test runs {engine.title} itself: {error}", pytrace=False)


@dataclass(frozen=True)
class Trained:
    """A small training of 20 updates with a test and a snapshot each 10, and what it said."""

    job: JobDirectory
    events: tuple[Event, ...]
    end: WorkerEnd


def request_of(job: JobDirectory, **changes: Any) -> TrainingRequest:
    job.snapshots.mkdir(exist_ok=True)
    job.worker_folder.mkdir(exist_ok=True)
    request = TrainingRequest(
        job=job, solver=job.solver, device=Device.CPU, threads=1, resume=None, weights=(),
        data=None, record_every=1, log_bytes=1 << 25, frozen=None, max_loss=None,
    )  # fmt: skip
    return replace(request, **changes)


def run(
    engine: Engine, runtime: Runtime, work: Work, folder: Path, observer: Callable[[Event], None]
) -> WorkerEnd:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return run_worker(
        runtime, engine, work, scratch, folder, nets=(), rules=installed_rules(), observer=observer
    )


@pytest.fixture
def trained(engine: Engine, runtime: Runtime, tmp_path: Path) -> Trained:
    job = write_job(tmp_path, max_iter=20, snapshot=10, test_interval=10)
    events: list[Event] = []
    work = engine.training(request_of(job))
    end = run(engine, runtime, work, tmp_path, events.append)
    return Trained(job, tuple(events), end)


def test_it_is_found_by_its_name(engine: Engine) -> None:
    assert engines.find(engine.name) is engine
    assert engine.title
    assert engine.module.isidentifier()
    assert engine.probe.is_file()


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="there is no engine 'cafe'\nDid you mean caffe"):
        engines.find("cafe")


def test_every_hint_is_a_sentence(engine: Engine) -> None:
    assert engine.hints
    for reason, hint in engine.hints.items():
        assert isinstance(reason, EndReason)
        assert in_shell(hint).endswith(".")
        assert "--" not in in_python(hint)  # a user of the library gives no options
    assert not {EndReason.FINISHED, EndReason.INTERRUPTED} & set(engine.hints)


def test_the_memory_model_says_whose_it_is(engine: Engine, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    recipe = read_recipe(job.solver)
    model = engine.memory_model(recipe, Sources((tmp_path,)), "cpu")
    assert model.engine == engine.name
    assert 0 < model.at(6).peak_bytes < model.at(12).peak_bytes


def test_the_audit_has_nothing_against_the_whole_batch(engine: Engine, tmp_path: Path) -> None:
    job = write_job(tmp_path, clip_gradients=0.1, iter_size=1, batch_size=12)
    model = engine.memory_model(read_recipe(job.solver), Sources((tmp_path,)), "cpu")
    whole = engine.audit(model, batch_size=12, iter_size=1)
    assert {finding.verdict for finding in whole} <= {Verdict.EXACT}
    split = engine.audit(model, batch_size=4, iter_size=3)
    causes = {finding.cause for finding in split if finding.changes}
    assert {cause.value for cause in causes} == {"clip_gradients"}
    refused = engine.audit(model, batch_size=4, iter_size=3, refused=causes)
    assert not any(finding.changes for finding in refused)


def test_a_runtime_says_what_it_is(engine: Engine, runtime: Runtime) -> None:
    info = runtimes.inspect(runtime, engine)
    assert info.python_version.count(".") == 2
    assert info.import_s > 0
    types = engine.layer_types(info)
    assert {"Data", "Convolution", "InnerProduct", "ReLU", "SoftmaxWithLoss"} <= types
    old = engine.runtime_info({"python_version": "2.7.18"})
    assert old == f"is Python 2.7.18, and {engine.python} or newer is needed"


def test_a_training_tells_how_far_it_is(trained: Trained) -> None:
    assert trained.end.ending.reason is EndReason.FINISHED
    spoken = [event for event in trained.events if isinstance(event, WorkerEvent)]
    assert isinstance(spoken[0], Started)
    assert spoken[0].engine_version
    assert spoken[0].device == Device.CPU
    assert spoken[1] == Built(0)
    assert spoken[-1] == Finished(20)
    updates = [event for event in spoken if isinstance(event, Updated)]
    assert updates[-1].update == 20
    assert [update.seconds for update in updates] == sorted(update.seconds for update in updates)
    records = [record for event in updates for record in event.records]
    assert [record.update for record in records] == list(range(1, 21))
    assert records[-1].loss < records[0].loss


def test_its_log_tells_the_tests(trained: Trained) -> None:
    begun = [event for event in trained.events if isinstance(event, NetTestStarted)]
    assert begun == [NetTestStarted(update, 0) for update in (0, 10, 20)]
    outputs = [event for event in trained.events if isinstance(event, NetTestOutput)]
    assert [output.name for output in outputs] == ["accuracy", "loss"] * 3
    assert [output.is_loss for output in outputs[:2]] == [False, True]
    assert all(0 <= output.value <= 1 for output in outputs[::2])


def test_its_snapshots_are_found_and_whole(engine: Engine, trained: Trained) -> None:
    taken = [event for event in trained.events if isinstance(event, SnapshotTaken)]
    files, folder = engine.snapshots, trained.job.snapshots
    there = files.list_snapshots(folder)
    assert [snapshot.update for snapshot in there] == [event.update for event in taken] == [10, 20]
    assert [str(snapshot.state) for snapshot in there] == [event.state for event in taken]
    for snapshot in there:
        files.check_contents(snapshot.update, snapshot.state, snapshot.weights)
        assert files.named_snapshot(snapshot.state) == snapshot
        files.take_in(snapshot.state)
    assert files.newest_whole(folder, 20) == (there[1], ())
    assert files.newest_whole(folder, 19) == (there[0], ())


@pytest.mark.parametrize("part", ["state", "weights"])
def test_a_damaged_snapshot_is_set_aside(engine: Engine, trained: Trained, part: str) -> None:
    files, folder = engine.snapshots, trained.job.snapshots
    older, newer = files.list_snapshots(folder)
    cut: Path = getattr(newer, part)
    cut.write_bytes(cut.read_bytes()[:-7])
    with pytest.raises(DamagedSnapshotError):
        files.check_contents(newer.update, newer.state, newer.weights)
    found, notes = files.newest_whole(folder, 20)
    assert found == older
    assert len(notes) == 1
    assert files.list_snapshots(folder) == [older]
    assert any(cut.name in path.name for path in folder.iterdir())  # renamed, not deleted


def test_pruning_keeps_what_is_to_be_kept(engine: Engine, trained: Trained) -> None:
    files, folder = engine.snapshots, trained.job.snapshots
    for snapshot in files.list_snapshots(folder):
        files.take_in(snapshot.state)
    files.prune(folder, None, None)
    assert [snapshot.update for snapshot in files.list_snapshots(folder)] == [10, 20]
    files.prune(folder, 1, None)
    files.finish_pruning(folder)
    assert [snapshot.update for snapshot in files.list_snapshots(folder)] == [20]
    files.set_aside_from(folder, 20)
    assert files.list_snapshots(folder) == []


def test_it_continues_from_a_snapshot_as_if_it_had_never_stopped(
    engine: Engine, runtime: Runtime, trained: Trained, tmp_path: Path
) -> None:
    job, files = trained.job, engine.snapshots
    resume, last = files.list_snapshots(job.snapshots)
    weights = last.weights.read_bytes()
    for file in (last.state, last.weights):
        file.unlink()
    data = engine.data_start(read_stages(job.read_plan()), resume, Sources((tmp_path,)))
    assert data.notes == ()
    events: list[Event] = []
    work = engine.training(request_of(job, resume=resume, data=data))
    assert run(engine, runtime, work, tmp_path, events.append).ending.reason is EndReason.FINISHED
    assert Built(10) in events
    assert files.list_snapshots(job.snapshots) == [resume, last]
    assert last.weights.read_bytes() == weights


def test_a_request_to_stop_leaves_a_snapshot(
    engine: Engine, runtime: Runtime, tmp_path: Path
) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 20)
    worker = WorkerProcess(
        runtime, engine, engine.training(request_of(job)), nowhere,
        log=job.log, working_directory=tmp_path,
    )  # fmt: skip
    said: list[Event] = []
    try:
        while worker.running():
            said += worker.listen(0.1)
            if hold.reached and not worker.stop_requested:
                worker.stop(signal.SIGTERM)
        said += worker.listen(0)
        ending = worker.ending()
    finally:
        worker.end()
    assert ending.reason is EndReason.INTERRUPTED
    (stopped,) = [event for event in said if isinstance(event, Stopped)]
    (snapshot,) = engine.snapshots.list_snapshots(job.snapshots)
    assert snapshot.update == stopped.update == 20
    engine.snapshots.check_contents(snapshot.update, snapshot.state, snapshot.weights)


@pytest.mark.parametrize("changes", [{"max_loss": 1e-9}, {"weights": ("other",)}])
def test_what_cannot_continue_says_why(
    engine: Engine, runtime: Runtime, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = write_job(tmp_path)
    (tmp_path / "other").write_bytes(b"")  # weights of a net without layers
    end = run(engine, runtime, engine.training(request_of(job, **changes)), tmp_path, print)
    wanted = EndReason.DIVERGED if "max_loss" in changes else EndReason.REFUSED
    assert end.ending.reason is wanted
    assert end.ending.detail


def test_every_end_has_a_reason(engine: Engine) -> None:
    log = ["something else", ""]
    assert engine.classify(0, Finished(3), log).reason is EndReason.FINISHED
    assert engine.classify(1, Stopped(3), log).reason is EndReason.INTERRUPTED
    assert engine.classify(1, Diverged(3, None), log).reason is EndReason.DIVERGED
    assert engine.classify(1, Refused("no"), log).detail == "no"
    assert engine.classify(-signal.SIGKILL, Built(0), log).reason is EndReason.KILLED
    assert engine.classify(128 + signal.SIGKILL, Built(0), log).reason is EndReason.KILLED
    assert engine.classify(-signal.SIGSEGV, Built(0), log).reason is EndReason.CRASHED
    assert engine.classify(7, None, []).reason is EndReason.UNKNOWN
    for lacking in ("MemoryError", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate"):
        assert engine.classify(1, None, [lacking]).reason is EndReason.HOST_MEMORY
    assert engine.classify(1, None, ["KeyError: 'x'"]).reason is EndReason.PYTHON_ERROR
    assert engine.last_lines(log) == ["something else"]


def test_gradients_are_measured(engine: Engine, runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    recipe = read_recipe(job.solver)
    request = NoiseRequest(
        net=job.net, state=recipe.train.state, solver=recipe.solver, device=Device.CPU, threads=1,
        weights=(), frozen=recipe.train.frozen_parameters(), groups=3, passes=4,
    )  # fmt: skip
    events: list[Event] = []
    end = run(engine, runtime, engine.noise(request), tmp_path, events.append)
    assert end.ending.reason is EndReason.FINISHED
    assert isinstance(events[0], Started)
    norms = [event for event in events if isinstance(event, GradientNorms)]
    assert [(event.update, event.passes) for event in norms] == [(1, 4), (2, 4), (3, 4)]
    # Noise adds to the gradients of micro-batches and cancels out in their mean.
    assert all(event.micro_norm_squared > event.mean_norm_squared > 0 for event in norms)


NET = f"""
layer {{ name: "in" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 6 dim: 1 dim: {HEIGHT} dim: {WIDTH} }} shape {{ dim: 6 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def test_variants_are_compared(engine: Engine, runtime: Runtime, tmp_path: Path) -> None:
    """The same training twice, and once with its gradients put off."""
    feeds = [
        {"layer": "in", "top": "data", "shape": [6, 1, HEIGHT, WIDTH], "axis": 0,
         "kind": "uniform", "below": None, "ignored": None, "low": 0, "high": 1},
        {"layer": "in", "top": "label", "shape": [6], "axis": 0, "kind": "label",
         "below": CLASSES, "ignored": None},
    ]  # fmt: skip
    variants = []
    for name, disturbance in (("one", 0.0), ("two", 0.0), ("off", 1e-3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.prototxt").write_text(NET)
        for solver in ("solver", "gradient_solver"):
            (folder / f"{solver}.prototxt").write_text(
                f'net: "{folder}/net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 3'
            )
        variants.append(VariantRun(folder, 1, disturbance, feeds=feeds))
    request = VerificationRequest(
        variants=variants, updates=3, average_loss=1, floor=0.01,
        result=tmp_path / "result.json",
    )  # fmt: skip
    end = run(engine, runtime, engine.verification(request), tmp_path, lambda event: None)
    assert end.ending.reason is EndReason.FINISHED
    found = json.loads(request.result.read_text())
    assert found["statuses"] == [0, 0, 0]
    first, second, third = found["losses"]
    assert first == second != third
    assert found["first_losses"][0] == found["first_losses"][2]
    assert [row["name"] for row in found["weights"]] == [["ip", 0], ["ip", 1]]
    for row in found["weights"]:
        itself, same, put_off = row["differences"]
        assert itself == same == 0 < put_off < row["norms"][2]
    assert [row["differences"][2] for row in found["gradient"]] == [None, None]
