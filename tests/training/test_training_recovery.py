"""Out of memory: a smaller split of the same effective batch, from the newest snapshot."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import pytest

from caffe_batch import engines
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import DoesNotFitError, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.schema import caffe_pb2
from caffe_batch.training import recovery
from caffe_batch.training.progress import Progress
from caffe_batch.training.resplit import split_smaller
from caffe_batch.training.supervisor import train
from tests import planned_jobs
from tests.both_engines import runtime as runtime
from tests.command import call
from tests.holding import WhenHeld, WorkerHold
from tests.planned_jobs import NET, WIDE, attempts_of, write_job, write_lmdb

FAKE = Path(__file__).with_name("fake_worker.py")
MIB = 2**20

#: 84 MB that the first test asks for.
TESTED_WIDE = """
layer { name: "tile" type: "Tile" bottom: "data" top: "wide" include { phase: TEST }
  tile_param { axis: 1 tiles: 60000 } }
layer { name: "away" type: "Silence" bottom: "wide" include { phase: TEST } }
"""

#: With a loss that is a sum, and a clipped gradient: both depend on iter_size.
SUMMED = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: 12 }} include {{ phase: TRAIN }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{data}" backend: LMDB batch_size: 10 }} include {{ phase: TEST }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 0.5 loss_param {{ normalization: NONE }} }}
"""
OUT_OF_MEMORY = Ending(EndReason.GPU_MEMORY, "no memory", 1)


@dataclass(frozen=True)
class Limited(Runtime):
    """A runtime with little address space."""

    inner: Runtime
    limit_bytes: int

    def command(self, args: Sequence[str]) -> list[str]:
        inner = self.inner.command(args)
        return ["sh", "-c", 'ulimit -v "$0" && exec "$@"', str(self.limit_bytes // 1024), *inner]

    def environment(self) -> dict[str, str]:
        return self.inner.environment()


def address_space(runtime: Runtime) -> int:
    """What Python with the engine has of it before any net is built, in bytes."""
    code = (
        f"import {engines.find(planned_jobs.engine).module}, re; "
        r"print(re.findall(r'VmPeak:\s+(\d+)', open('/proc/self/status').read())[0])"
    )
    done = subprocess.run(
        runtime.command(["-c", code]),
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    return 1024 * int(done.stdout)


def planned(folder: Path, net: str, solver: str, *options: object) -> JobDirectory:
    """A job that ``caffe-batch plan`` makes of a net over real data."""
    data = write_lmdb(folder / "data")
    (folder / "net.prototxt").write_text(net.format(data=data))
    (folder / "solver.prototxt").write_text(
        f'net: "{folder / "net.prototxt"}" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 '
        f"random_seed: 1 {solver}\n"
    )
    done = call(
        "plan", folder / "solver.prototxt", "--mode", "cpu", "--out", folder / "job",
        "--engine", planned_jobs.engine, *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    return JobDirectory(folder / "job")


def value(job: JobDirectory, field: str, file: str = "solver.prototxt") -> str:
    (found,) = re.findall(rf"\b{field}: (\S+)", (job.path / file).read_text())
    return str(found)


def weights_of(job: JobDirectory) -> list[float]:
    net = caffe_pb2.NetParameter()
    net.ParseFromString(list_snapshots(job.snapshots)[-1].weights.read_bytes())
    return [number for layer in net.layer for blob in layer.blobs for number in blob.data[:999]]


def test_it_continues_with_a_smaller_split(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    solver = "max_iter: 2 display: 1 clip_gradients: 1e-3"
    budget = ("--gpu-memory", "2GiB", "--effective-batch", 60)
    whole = planned(tmp_path / "whole", WIDE, solver, *budget)
    train(whole, runtime)
    assert [a.batch_size for a in attempts_of(whole)] == [60]

    (tmp_path / "split").mkdir()
    job = planned(tmp_path / "split", WIDE, solver, *budget)
    limited = Limited("limited", runtime, address_space(runtime) + 560 * MIB)
    seen: list[Progress] = []
    outcome = train(job, limited, observer=seen.append)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 2)
    *failed, last = attempts_of(job)
    assert failed
    assert {attempt.ending for attempt in failed} == {"out of host memory"}
    assert last.ending == "finished"
    assert last.batch_size is not None
    assert last.iter_size is not None
    assert last.batch_size * last.iter_size == 60
    assert last.predicted_bytes is not None
    assert failed[0].predicted_bytes is not None
    assert last.predicted_bytes < failed[0].predicted_bytes
    assert last.seen_bytes is not None
    assert last.seen_bytes > last.predicted_bytes  # Python and Caffe's code as well
    note = f"continuing with batch_size {last.batch_size} x iter_size {last.iter_size}"
    assert any(note in each for each in seen[-1].notes)
    assert float(value(job, "clip_gradients")) == pytest.approx(1e-3 * last.iter_size)
    assert f"batch_size {last.batch_size} x" in job.read_plan().summary
    # The same training: the same samples, the same clipped mean gradient.
    straight, split = weights_of(whole), weights_of(job)
    assert split == pytest.approx(straight, rel=1e-4, abs=1e-9)


#: A Python layer between the data and the wide blob.
HALVED = """
layer {{ name: "half" type: "Python" bottom: "data" top: "half"
  python_param {{ module: "half_layer" layer: "Half" }} }}
"""
HALF_LAYER = """
import caffe

class Half(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data / 2

    def backward(self, top, propagate_down, bottom):
        pass
"""


def test_a_smaller_split_keeps_what_was_said_of_a_python_layer(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real Caffe runs out of memory, and what the layer does was only said for the plan."""
    (tmp_path / "half_layer.py").write_text(HALF_LAYER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    first, tile = WIDE.split('layer {{ name: "tile"')
    tile = tile.replace('bottom: "data"', 'bottom: "half"')
    net = f'{first}{HALVED}layer {{{{ name: "tile"{tile}'
    job = planned(
        tmp_path, net, "max_iter: 2 display: 1", "--gpu-memory", "2GiB", "--effective-batch", 60,
        "--same-shape", "Python:Half",
    )  # fmt: skip
    limited = Limited("limited", runtime, address_space(runtime) + 560 * MIB)
    outcome = train(job, limited)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 2)
    *failed, last = attempts_of(job)
    assert {attempt.ending for attempt in failed} == {"out of host memory"}
    assert last.batch_size is not None
    assert last.batch_size < 60
    plan = job.read_plan()
    assert plan.hints.same_shape == (("Python:Half", None),)
    assert f"batch_size {last.batch_size} x" in plan.summary
    again = call("memory", job.path / "solver.prototxt", "--mode", "cpu", "--json")
    assert again.code == 0, again.err
    assert "--same-shape Python:Half" in again.err


@pytest.mark.both
def test_memory_that_another_program_takes(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later on: the address space ends below what is in use, so that nothing new fits.

    Nothing but a snapshot asks for more then. That of the widest layer is above 32 MiB, which glibc
    maps and returns (mallopt(3), M_MMAP_THRESHOLD).
    """
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=250_000)
    job = write_job(
        tmp_path, net=net, max_iter=60, batch_size=6, iter_size=1, snapshot=20,
        test_interval=60, test_initialization="false",
    )  # fmt: skip

    def limit() -> None:
        pid = attempts_of(job)[-1].pid
        text = Path(f"/proc/{pid}/status").read_text()
        size = 1024 * int(re.findall(r"VmSize:\s+(\d+)", text)[0]) - 64 * MIB
        resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    hold = WorkerHold(tmp_path, 30, monkeypatch)
    outcome = train(job, runtime, observer=WhenHeld(hold, limit), script=hold.script)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 60)
    first, second = attempts_of(job)
    assert (first.batch_size, first.iter_size) == (6, 1)
    assert (second.batch_size, second.iter_size) == (3, 2)
    assert first.ending == "out of host memory"
    assert second.first_update in (20, 40)
    updates = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert [line.update for line in updates] == list(range(1, 61))
    assert {line.effective_batch for line in updates} == {6}
    # A test sees as many samples as before, in smaller batches.
    assert (value(job, "test_iter"), job.net.read_text().count("batch_size: 5 ")) == ("14", 1)


def test_every_stage_keeps_its_effective_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "small_gpu")
    monkeypatch.setenv("FAKE_ROOM", "2")
    job = write_job(
        tmp_path, max_iter=10,
        later=[{"max_iter": 20, "iter_size": 5}, {"max_iter": 30, "iter_size": 8}],
    )  # fmt: skip
    outcome = train(job, Interpreter(sys.executable), script=FAKE)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 30)
    assert [(a.stage, a.batch_size, a.iter_size, a.ending) for a in attempts_of(job)] == [
        (1, 6, 3, "out of GPU memory"),
        (1, 3, 6, "out of GPU memory"),
        (1, 2, 9, "finished"),
        (2, 2, 15, "finished"),
        (3, 2, 24, "finished"),
    ]
    files = JobFiles(job.path)
    for number, (samples, max_iter) in enumerate([(18, 10), (30, 20), (48, 30)], start=1):
        solver = files.stage_solver(number).name
        assert (value(job, "iter_size", solver), value(job, "max_iter", solver)) == (
            str(samples // 2),
            str(max_iter),
        )
        assert "batch_size: 2 " in files.stage_net(number).read_text()
    content = json.loads(job.plan.read_text())
    assert [each["to"] for each in content["resplits"]] == [[3, 6], [2, 9]]
    assert [stage["iter_size"] for stage in content["stages"]] == [9, 15, 24]


def test_no_smaller_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "out_of_gpu_memory")
    job = write_job(tmp_path)
    with pytest.raises(
        DoesNotFitError,
        match=r"out of GPU memory \(Check failed: error == cudaSuccess .*batch_size 1 is the "
        r"smallest split of the effective batch 18\. With it Caffe requests 27\.5 KiB",
    ) as failure:
        train(job, Interpreter(sys.executable), script=FAKE)
    assert "Use a machine with more free memory" in str(failure.value.hint)
    assert [attempt.batch_size for attempt in attempts_of(job)] == [6, 3, 2, 1]
    record = job.read_record()
    assert record is not None
    assert record.state is JobState.FAILED


def test_the_tries_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "out_of_gpu_memory")
    monkeypatch.setattr(recovery, "MOST_SPLITS", 2)
    job = write_job(tmp_path)
    with pytest.raises(TrainingError, match="even with batch_size 2, after 2 smaller splits"):
        train(job, Interpreter(sys.executable), script=FAKE)
    assert (value(job, "iter_size"), job.read_plan().batch_size) == ("9", 2)


@pytest.mark.parametrize("refused", [(), ("clip_gradients",)])
def test_compensations_are_worked_out_anew(refused: Sequence[str], tmp_path: Path) -> None:
    job = planned(
        tmp_path, SUMMED,
        "max_iter: 9 clip_gradients: 2 test_iter: 7 test_interval: 5",
        "--effective-batch", 12, "--batch-size", 6, "--gpu-memory", "1GiB",
        *(word for cause in refused for word in ("--no-compensate", cause)),
    )  # fmt: skip

    def settings() -> tuple[float, float]:
        weights = float(value(job, "loss_weight", "net.prototxt"))
        return float(value(job, "clip_gradients")), weights

    # Refused is a change of the recipe; a training under way stays the same.
    clip = 1 if refused else 2
    assert settings() == (2 * clip, 1.0)
    for iter_size in (3, 4, 6, 12):
        split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
        assert value(job, "iter_size") == str(iter_size)
        assert settings() == (clip * iter_size, 0.5 * iter_size)
    changes: dict[tuple[str, int | None], Any] = {
        (change["field"], change["layer_index"]): (change["from"], change["to"])
        for change in json.loads(job.plan.read_text())["changes"]
    }
    assert changes['layer "loss" loss_weight[0]', 3] == (0.5, 6.0)
    assert changes['layer "data" data_param.batch_size', 0] == (12, 1)
    assert changes['layer "data" data_param.batch_size', 1] == (10, 1)
    assert changes["test_iter[0]", None] == (7, 70)
    assert changes.get(("clip_gradients", None)) == (2.0, 12.0 * clip)
    assert changes["iter_size", None] == (None, 12)


def test_notes_audit_and_tests_are_those_of_the_new_split(tmp_path: Path) -> None:
    job = planned(
        tmp_path, SUMMED, "max_iter: 9 clip_gradients: 2 test_iter: 7 test_interval: 5",
        "--effective-batch", 13, "--tolerance", "10%", "--batch-size", 6, "--gpu-memory", "1GiB",
    )  # fmt: skip
    before = json.loads(job.plan.read_text())
    assert any("instead of 13" in note for note in before["notes"])
    split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
    after = json.loads(job.plan.read_text())
    assert (after["batch_size"], after["iter_size"], after["effective_batch"]) == (4, 3, 12)
    assert not any("instead of 13" in note for note in after["notes"])
    causes = {finding["cause"]: finding for finding in after["audit"]}
    assert "3 times" in causes["clip_gradients"]["explanation"]
    (own,), (test,) = before["tests"], after["tests"]
    assert (
        f"the mean over batches of {test['batch_size']} is not"
        in (
            causes["test_batches"]["explanation"]  # the loss is a sum
        )
    )
    assert test["batch_size"] < own["batch_size"]
    assert test["batch_size"] * test["test_iter"] == 70
    assert test["records"] == own["records"]
    assert {key for key in before if key not in after} == set()
    assert before["budget_bytes"] == after["budget_bytes"]


@pytest.mark.parametrize(("effective", "first", "sizes"), [(12, 6, [4, 3, 2, 1]), (9, 9, [3, 1])])
def test_batch_size_1_comes_after_2_and_says_what_it_overwrites(
    tmp_path: Path, effective: int, first: int, sizes: list[int]
) -> None:
    scale = """layer {{ name: "s" type: "Scale" bottom: "ip" top: "s" }}
    layer {{ name: "loss" """
    net = SUMMED.replace('layer {{ name: "loss" ', scale)
    net = net.replace('bottom: "ip" bottom', 'bottom: "s" bottom')
    job = planned(
        tmp_path, net, "max_iter: 9 test_iter: 7 test_interval: 5", "--effective-batch", effective,
        "--batch-size", first, "--gpu-memory", "1GiB",
    )  # fmt: skip
    for size in sizes:
        told = split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
        assert f"continuing with batch_size {size} x iter_size {effective // size} " in told
        another = "From here on it is a different training: overwritten_gradient of 's'" in told
        assert another is (size == 1)
    (finding,) = [
        each for each in json.loads(job.plan.read_text())["audit"]
        if each["cause"] == "overwritten_gradient"
    ]  # fmt: skip
    assert (finding["layer"], finding["verdict"]) == ("s", "different")


def test_a_hand_edited_solver_keeps_its_edits(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    job.solver.write_text(job.solver.read_text().replace("base_lr: 0.1", "base_lr: 0.07  # mine"))
    split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
    assert "base_lr: 0.07  # mine\n" in job.solver.read_text()


def test_a_job_that_has_moved(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    old_net = job.net.read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in job.path.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    split_smaller(JobDirectory(moved), JobDirectory(moved).read_plan(), OUT_OF_MEMORY)
    assert "batch_size: 3 " in (moved / "net.prototxt").read_text()
    assert job.net.read_text() == old_net


def test_a_change_that_was_interrupted_is_made_to_the_end(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
    after = {path: path.read_text() for path in (job.solver, job.net, job.plan)}
    job.rewrite_file.write_text(json.dumps({path.name: text for path, text in after.items()}))
    for path in (job.net, job.plan):  # killed after the first file was written
        path.write_text(path.read_text().replace("batch_size: 3", "batch_size: 6"))
    train(job, runtime)
    assert {path: path.read_text() for path in after} == after
    assert not job.rewrite_file.exists()
    assert [a.batch_size for a in attempts_of(job)] == [3]


def test_what_the_plan_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "out_of_gpu_memory")
    job = write_job(tmp_path)
    content = json.loads(job.plan.read_text())
    content["stages"][0]["changes"] = [{"file": "net.prototxt", "field": "x", "from": 1, "to": 2}]
    job.plan.write_text(json.dumps(content))
    with pytest.raises(
        TrainingError, match=r"can't be planned again: .*have no layer_index, layer_name, path"
    ) as failure:
        train(job, Interpreter(sys.executable), script=FAKE)
    assert failure.value.hint == "An older version planned it: plan again."


def test_no_smaller_split_makes_room_for_a_database(
    caffes_runtime: Runtime, tmp_path: Path
) -> None:
    """Caffe maps the whole of it, whatever batch_size: the plan stays, and the limit is named."""
    job = planned(tmp_path, SUMMED, "max_iter: 2", "--effective-batch", 12, "--gpu-memory", "1GiB")
    with (
        lmdb.open(str(tmp_path / "data"), map_size=2**36) as larger,
        larger.begin(write=True) as put,
    ):
        put.put(b"last", put.get(b"00000000", b""))  # writes down how large the map is
    before = job.plan.read_text()
    limited = Limited("limited", caffes_runtime, address_space(caffes_runtime) + 560 * MIB)
    with pytest.raises(
        TrainingError, match=r"no address space for a database: .*mdb_status"
    ) as error:
        train(job, limited)
    assert "`ulimit -v`" in str(error.value.hint)
    assert [attempt.batch_size for attempt in attempts_of(job)] == [12]
    assert job.plan.read_text() == before
