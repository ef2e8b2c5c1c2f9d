"""The planned split again, once memory is free; and test batches that shrink first."""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch.api.machines import counting
from caffe_batch.errors import DoesNotFitError, InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.metrics import NetTestMetrics, read_metrics
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import Outcome
from caffe_batch.training.progress import Progress
from caffe_batch.training.resplit import planned_split, split_smaller, take_planned_split
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.holding import WhenHeld, WorkerHold
from tests.planned_jobs import NET, attempts_of, write_job, write_lmdb
from tests.training.test_training_recovery import OUT_OF_MEMORY, SUMMED, TESTED_WIDE, planned, value

FAKE = Path(__file__).with_name("fake_worker.py")
IN_A_TEST = replace(OUT_OF_MEMORY, test_net=0)
MIB = 2**20


def splits_of(job: JobDirectory) -> list[tuple[int | None, int | None, str | None]]:
    return [(a.batch_size, a.iter_size, a.ending) for a in attempts_of(job)]


def test_the_planned_split_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is full, then free again."""
    monkeypatch.setenv("FAKE_WORKER", "small_gpu")
    job = write_job(tmp_path, max_iter=10)
    seen: list[Progress] = []

    def train_on(room: int, updates: int, options: Options | None = None) -> Outcome:
        monkeypatch.setenv("FAKE_ROOM", str(room))
        text = re.sub(r"max_iter: \d+", f"max_iter: {updates}", job.solver.read_text())
        job.solver.write_text(text)
        return train(job, Interpreter(sys.executable), options, seen.append, script=FAKE)

    train_on(2, 10)
    full = [(6, 3, "out of GPU memory"), (3, 6, "out of GPU memory"), (2, 9, "finished")]
    assert splits_of(job) == full

    # It stays there, and says that more may fit.
    train_on(6, 20)
    assert splits_of(job) == [*full, (2, 9, "finished")]
    (told,) = [note for note in seen[-1].notes if "--try-larger" in note]
    assert "It was planned with batch_size 6 x iter_size 3 and ran out of memory" in told

    # Not yet: it falls back, from the same snapshot.
    train_on(3, 30, Options(try_larger=True))
    tried = [(6, 3, "out of GPU memory"), (3, 6, "finished")]
    assert splits_of(job) == [*full, (2, 9, "finished"), *tried]
    assert [a.first_update for a in attempts_of(job)] == [0, 0, 0, 10, 20, 20]
    again = "The planned split again, batch_size 6 x iter_size 3 instead of 2 x 9."
    assert again in seen[-1].notes

    train_on(6, 40, Options(try_larger=True))
    assert splits_of(job)[-1] == (6, 3, "finished")
    assert planned_split(job, job.read_plan()) is None
    train_on(6, 50, Options(try_larger=True))
    assert any("there is no larger one to try" in note for note in seen[-1].notes)


COUNTED = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 12 dim: 3 dim: 9 dim: 9 } shape { dim: 12 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_smaller_split_has_the_figures_of_the_planned_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(COUNTED)
    solver.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    plan = cb.plan(solver, gpu_memory="1GiB", engine="pytorch")
    planned_peaks = {each.batch_size: each.predicted_peak_bytes for each in plan.candidates}
    of_caffe = {each.batch_size: each.predicted_peak_bytes
                for each in cb.plan(solver, gpu_memory="1GiB").candidates}  # fmt: skip
    job = JobDirectory(plan.write(tmp_path / "job").path)
    split_smaller(job, job.read_plan(), OUT_OF_MEMORY, counting("pytorch"))
    smaller = job.read_plan()
    assert (smaller.batch_size, smaller.iter_size) == (6, 2)
    assert smaller.predicted_peak_bytes == planned_peaks[6]
    assert smaller.predicted_peak_bytes != of_caffe[6]
    assert smaller.notes == tuple(plan.notes)


def test_a_restart_takes_the_planned_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "small_gpu")
    job = write_job(tmp_path, max_iter=10)
    for room, splits in ((2, [6, 3, 2]), (6, [6])):
        monkeypatch.setenv("FAKE_ROOM", str(room))
        train(job, Interpreter(sys.executable), Options(restart=True), script=FAKE)
        assert [a.batch_size for a in attempts_of(job)] == splits


def test_noise_that_the_planned_split_has_not(tmp_path: Path) -> None:
    job = write_job(tmp_path, batch_size=6, iter_size=1)
    split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
    before = job.plan.read_text()
    options = Options(restart=True, noise_scale=True)
    with pytest.raises(InputError, match="iter_size is 1"):
        train(job, Interpreter(sys.executable), options, script=FAKE)
    assert job.plan.read_text() == before


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_files_and_plan_are_those_of_the_planned_split(tmp_path: Path, steps: int) -> None:
    job = planned(
        tmp_path, SUMMED, "max_iter: 9 clip_gradients: 2 test_iter: 7 test_interval: 5",
        "--effective-batch", 12, "--batch-size", 6, "--gpu-memory", "1GiB",
    )  # fmt: skip
    texts, before = (job.solver.read_text(), job.net.read_text()), job.read_plan()
    split_smaller(job, before, IN_A_TEST)
    for _ in range(steps):
        split_smaller(job, job.read_plan(), OUT_OF_MEMORY)
    assert texts[1] != job.net.read_text()
    found = planned_split(job, job.read_plan())
    assert found is not None
    take_planned_split(job, job.read_plan(), found)
    assert (job.solver.read_text(), job.net.read_text()) == texts
    after = job.read_plan()
    for name in ("batch_size", "iter_size", "predicted_peak_bytes", "tests", "candidates"):
        assert after.content[name] == before.content[name], name


def test_a_test_makes_room_first(tmp_path: Path) -> None:
    job = planned(
        tmp_path, SUMMED, "max_iter: 9 test_iter: 7 test_interval: 5",
        "--effective-batch", 12, "--batch-size", 6, "--gpu-memory", "1GiB",
    )  # fmt: skip
    seen = []
    for _ in range(5):
        told = split_smaller(job, job.read_plan(), IN_A_TEST)
        seen.append((told.split(":")[0], value(job, "test_iter"), job.read_plan().batch_size))
    assert seen == [
        ("out of GPU memory in a test", "14", 6),
        ("out of GPU memory in a test", "35", 6),
        ("out of GPU memory in a test", "70", 6),
        ("out of GPU memory", "70", 4),
        ("out of GPU memory", "70", 3),
    ]
    (test,) = job.read_plan().tests
    assert (test["batch_size"], test["test_iter"]) == (1, 70)


def test_memory_that_only_a_test_lacks(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=18, width=20_000) + TESTED_WIDE
    job = write_job(
        tmp_path, net=net, max_iter=80, batch_size=18, iter_size=1, snapshot=20,
        test_interval=60, test_initialization="false",
    )  # fmt: skip

    def limit() -> None:
        """Room for a snapshot, and not for the 84 MB of a test."""
        pid = attempts_of(job)[-1].pid
        text = Path(f"/proc/{pid}/status").read_text()
        size = 1024 * int(re.findall(r"VmSize:\s+(\d+)", text)[0]) + 40 * MIB
        resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    hold = WorkerHold(tmp_path, 50, monkeypatch)
    outcome = train(job, runtime, observer=WhenHeld(hold, limit), script=hold.script)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 80)
    assert splits_of(job) == [(18, 1, "out of host memory"), (18, 1, "finished")]
    assert (value(job, "test_iter"), job.net.read_text().count("batch_size: 5 ")) == ("14", 1)
    tests = [line.update for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]
    assert set(tests) == {60}


def test_a_snapshot_is_promised_only_where_there_is_one(tmp_path: Path) -> None:
    job = write_job(tmp_path, batch_size=1)
    with pytest.raises(DoesNotFitError) as failure:
        split_smaller(job, job.read_plan(), Ending(EndReason.GPU_MEMORY, "no memory", 1))
    assert "newest snapshot" not in str(failure.value.hint)
    job.snapshots.mkdir()
    for ending in ("caffemodel", "solverstate"):
        (job.snapshots / f"tiny_iter_20.{ending}").touch()
    with pytest.raises(DoesNotFitError) as failure:
        split_smaller(job, job.read_plan(), Ending(EndReason.GPU_MEMORY, "no memory", 1))
    assert "The newest snapshot is kept." in str(failure.value.hint)
