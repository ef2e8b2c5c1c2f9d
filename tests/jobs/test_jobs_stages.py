"""Several solvers as one job: real Caffe, against a chain of solvers written by hand."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import engines
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.work import Work
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.job_files import JobFiles
from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.jobs.stages import read_stages, stage_at
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.process import SignalRelay, WorkerProcess
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.holding import LONG, Hold, WhenHeld, signal_self
from tests.planned_jobs import RECORDS, FinishedJob, nowhere, write_job

FIXED = '"fixed"'

#: The stages of :func:`grown`: up to which update, micro-batches of an update, rate.
GROWN = [(20, 3, 0.1), (34, 5, 0.1), (44, 8, 0.05)]

CHAIN = """
import sys
import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format
folder, momentum, *solvers = sys.argv[1:]
caffe.set_mode_cpu()
done, passes, state = 0, 0, None
for path in solvers:
    with open(path) as file:
        message = text_format.Parse(file.read(), caffe_pb2.SolverParameter())
    message.snapshot_prefix = folder + "/hand"
    message.snapshot = 0
    with open(folder + "/hand.prototxt", "w") as file:
        file.write(text_format.MessageToString(message))
    solver = caffe.get_solver(folder + "/hand.prototxt")
    if state and momentum == "kept":
        solver.restore(state)
    elif state:
        solver.net.copy_from(state.replace("solverstate", "caffemodel"))
    for _ in range(passes):
        solver.net._forward(0, 0)  # the data continues through the stages
    solver.step(message.max_iter - done)
    solver.snapshot()
    passes += message.iter_size * (message.max_iter - done)
    done, state = message.max_iter, "%s/hand_iter_%d.solverstate" % (folder, solver.iter)
print(state)
"""


@pytest.fixture(scope="module")
def grown(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """The stages of GROWN, with tests and snapshots that fall on their bounds and elsewhere."""
    (end, iter_size, rate), *later = GROWN
    job = write_job(
        tmp_path_factory.mktemp("grown"), lr_policy=FIXED,
        max_iter=end, iter_size=iter_size, base_lr=rate, test_interval=10, snapshot=7,
        later=[
            {"max_iter": end, "iter_size": iter_size, "base_lr": rate, "test_interval": 5}
            for end, iter_size, rate in later
        ],
    )  # fmt: skip
    seen: list[Progress] = []
    outcome = train(job, runtime, observer=seen.append)
    return FinishedJob(job, outcome, tuple(seen))


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


def updates_of(job: JobDirectory) -> list[UpdateMetrics]:
    return [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]


def scores_of(job: JobDirectory) -> list[NetTestMetrics]:
    return [line for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]


def learned(state: Path) -> tuple[list[list[float]], list[list[float]]]:
    """Every weight of a snapshot, and the solver's history."""
    net, solver = caffe_pb2.NetParameter(), caffe_pb2.SolverState()
    net.ParseFromString(state.with_suffix(".caffemodel").read_bytes())
    solver.ParseFromString(state.read_bytes())
    weights = [list(blob.data) for layer in net.layer for blob in layer.blobs]
    return weights, [list(blob.data) for blob in solver.history]


def edit(job: JobDirectory, stage: int, before: str, after: str) -> None:
    solver = JobFiles(job.path).stage_solver(stage)
    assert before in solver.read_text()
    solver.write_text(solver.read_text().replace(before, after))


def test_the_weights_are_those_of_a_chain_by_hand(
    grown: FinishedJob, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    files = JobFiles(grown.job.path)
    solvers = [str(files.stage_solver(number)) for number in (1, 2, 3)]
    by_hand = Path(pycaffe(CHAIN, str(tmp_path), "kept", *solvers).strip())
    weights, history = learned(by_hand)
    ours = list_snapshots(grown.job.snapshots)[-1]
    assert learned(ours.state) == (weights, history)
    assert [len(blob) for blob in history] == [len(blob) for blob in weights]
    assert all(any(blob) for blob in history)
    without = Path(pycaffe(CHAIN, str(tmp_path), "lost", *solvers).strip())
    assert learned(without)[0] != weights  # so the comparison sees the momentum


def test_stages_are_one_job(grown: FinishedJob) -> None:
    job, outcome = grown.job, grown.outcome
    assert (outcome.state, outcome.update, outcome.updates) == (JobState.FINISHED, 44, 44)
    record = record_of(job)
    assert (record.state, record.updates_done, record.updates) == (JobState.FINISHED, 44, 44)
    assert [
        (a.number, a.stage, a.first_update, a.last_update, a.ending) for a in record.attempts
    ] == [(1, 1, 0, 20, "finished"), (2, 2, 20, 34, "finished"), (3, 3, 34, 44, "finished")]
    assert record.attempts[1].resumed_from == str(job.snapshots / "tiny_iter_20.solverstate")
    assert record.attempts[1].choices[:2] == (
        "Continuing from update 20 (tiny_iter_20.solverstate).",
        "Stage 2 of 3, up to update 34: effective batch 30, learning rate 0.1.",
    )
    taken = [snapshot.update for snapshot in list_snapshots(job.snapshots)]
    assert taken == [7, 14, 20, 21, 28, 34, 35, 42, 44]
    (log,) = job.path.glob("*.log")
    text = log.read_text()
    assert text.count("Restoring previous solver status") == 2
    assert text.count("Optimization Done.") == 3
    assert not train(job, Interpreter("/no/such/python")).ran


def test_metrics_continue_through_the_stages(grown: FinishedJob) -> None:
    updates = updates_of(grown.job)
    assert [line.update for line in updates] == list(range(1, 45))
    assert [line.effective_batch for line in updates] == 20 * [18] + 14 * [30] + 10 * [48]
    assert [line.learning_rate for line in updates] == 34 * [0.1] + 10 * [0.05]
    assert updates[19].samples == 20 * 18
    assert updates[-1].samples == 20 * 18 + 14 * 30 + 10 * 48
    assert updates[-1].epoch == pytest.approx(updates[-1].samples / RECORDS, abs=1e-4)
    seconds = [line.seconds for line in updates]
    assert seconds == sorted(seconds)


def test_each_test_is_one_line(grown: FinishedJob) -> None:
    tests = scores_of(grown.job)
    assert [(line.update, line.output) for line in tests] == [
        (update, output)
        for update in (0, 10, 20, 25, 30, 35, 40)
        for output in ("accuracy", "loss")
    ]  # Caffe tests at update 20 twice, at the end of one stage and the beginning of the next
    assert grown.job.log.read_text().count("Iteration 20, Testing net") == 2
    seconds = [line.seconds for line in tests]
    assert seconds == sorted(seconds)


def test_progress_is_of_all_stages(grown: FinishedJob) -> None:
    last = grown.seen[-1]
    assert {progress.updates for progress in grown.seen} == {44}
    assert {progress.stages for progress in grown.seen} == {3}
    assert last.stage == 3
    done = [progress.update for progress in grown.seen]
    assert done == sorted(done)
    assert (last.update, last.samples, last.left_s) == (44, 20 * 18 + 14 * 30 + 10 * 48, 0)
    assert len(last.losses) == 44
    training = [progress.training for progress in grown.seen]
    assert training == sorted(training)  # the display doesn't start again with a stage


def test_progress_tells_the_stage_of_the_moment(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, lr_policy=FIXED, max_iter=20,
        later=[{"max_iter": 30, "iter_size": 5}, {"max_iter": 40, "iter_size": 8}],
    )  # fmt: skip
    holds = [Hold(job, 2, iter_size=k, stage=n) for n, k in ((1, 3), (2, 5), (3, 8))]
    told: list[int] = []

    def observe(progress: Progress) -> None:
        if len(told) < len(holds) and holds[len(told)].reached:
            holds[len(told)].release()
            told.append(progress.stage)

    train(job, runtime, observer=observe)
    assert told == [1, 2, 3]


def test_interrupted_in_a_later_stage(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, lr_policy=FIXED, max_iter=12,
        later=[{"max_iter": LONG, "iter_size": 5}, {"max_iter": 2 * LONG, "iter_size": 8}],
    )  # fmt: skip
    stopped = 20
    hold = Hold(job, stopped - 12, iter_size=5, stage=2)
    outcome = train(job, runtime, observer=WhenHeld(hold, signal_self(signal.SIGINT)))
    assert (outcome.state, outcome.updates) == (JobState.INTERRUPTED, 2 * LONG)
    assert outcome.update == stopped
    edit(job, 2, str(LONG), str(stopped + 4))
    edit(job, 3, str(2 * LONG), str(stopped + 9))
    outcome = train(job, runtime)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, stopped + 9)
    assert [(a.stage, a.first_update, a.last_update) for a in record_of(job).attempts] == [
        (1, 0, 12), (2, 12, stopped), (2, stopped, stopped + 4), (3, stopped + 4, stopped + 9),
    ]  # fmt: skip
    updates = updates_of(job)
    numbers = [line.update for line in updates]
    assert numbers == sorted(set(numbers))
    assert numbers[-6:] == list(range(stopped + 4, stopped + 10))
    assert updates[-1].samples == 12 * 18 + (stopped + 4 - 12) * 30 + 5 * 48


def test_interrupted_in_the_first_stage(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, lr_policy=FIXED, max_iter=LONG,
        later=[{"max_iter": 2 * LONG, "iter_size": 5}],
    )  # fmt: skip
    stopped = 10
    hold = Hold(job, stopped)
    outcome = train(job, runtime, observer=WhenHeld(hold, signal_self(signal.SIGINT)))
    assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, stopped)
    assert [attempt.stage for attempt in record_of(job).attempts] == [1]
    edit(job, 1, str(LONG), str(stopped))  # the snapshot is now the end of the stage
    edit(job, 2, str(2 * LONG), str(stopped + 5))
    outcome = train(job, runtime)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, stopped + 5)
    assert [attempt.stage for attempt in record_of(job).attempts] == [1, 2]
    assert updates_of(job)[-1].samples == stopped * 18 + 5 * 30


def test_a_stop_at_the_bound_of_two_stages(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, lr_policy=FIXED, max_iter=10, test_interval=10,
        later=[{"max_iter": 20, "iter_size": 5}],
    )  # fmt: skip
    asked = False

    def interrupt(progress: Progress) -> None:
        nonlocal asked
        if progress.update == 10 and not asked:  # its worker is about to end, or has ended
            asked = True
            os.kill(os.getpid(), signal.SIGINT)

    outcome = train(job, runtime, observer=interrupt)
    assert (outcome.state, outcome.update, outcome.updates) == (JobState.INTERRUPTED, 10, 20)
    record = record_of(job)
    assert (record.state, record.updates_done) == (JobState.INTERRUPTED, 10)
    assert [attempt.stage for attempt in record.attempts] == [1]
    outcome = train(job, runtime)
    assert (outcome.state, outcome.update) == (JobState.FINISHED, 20)
    assert [attempt.stage for attempt in record_of(job).attempts] == [1, 2]
    assert [line.update for line in updates_of(job)] == list(range(1, 21))
    assert [line.update for line in scores_of(job)] == [0, 0, 10, 10, 20, 20]


def test_a_stage_without_the_snapshot_before(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(
        tmp_path, lr_policy=FIXED, max_iter=10, later=[{"max_iter": 20, "iter_size": 5}]
    )

    def remove(progress: Progress) -> None:
        for snapshot in list_snapshots(job.snapshots):
            if snapshot.record.exists():  # it has been checked
                snapshot.state.unlink()

    with pytest.raises(TrainingError, match=r"at update 10 of 20: .*stage 1 left no snapshot"):
        train(job, runtime, observer=remove)
    assert record_of(job).state is JobState.FAILED


def test_a_worker_that_does_not_listen_yet_can_be_stopped(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text("import signal; signal.pause()")
    relay = SignalRelay()
    relay.stop(signal.SIGINT)  # before there is a worker
    worker = WorkerProcess(
        Interpreter(sys.executable), engines.find(), Work(script, {}), nowhere,
        log=tmp_path / "log", working_directory=tmp_path,
    )  # fmt: skip
    try:
        relay.attend(worker)
        ending = worker.ending()
    finally:
        worker.end()
    assert ending.reason is EndReason.INTERRUPTED
    assert ending.detail == "stopped before Caffe was loaded"


NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'


@pytest.fixture
def two(tmp_path: Path) -> JobDirectory:
    """Two stages that are only read."""
    return write_job(tmp_path, net=NET, max_iter=10, later=[{"max_iter": 30, "iter_size": 5}])


def test_where_stages_begin_and_end(two: JobDirectory) -> None:
    stages = read_stages(two.read_plan())
    assert [(p.number, p.first_update, p.last_update) for p in stages] == [(1, 0, 10), (2, 10, 30)]
    assert [stage_at(stages, done).number for done in (0, 9, 10, 29, 30)] == [1, 1, 2, 2, 2]
    assert [stages[1].samples(update) for update in (10, 11, 30)] == [180, 210, 780]
    assert stages[0].samples(10) == stages[1].samples(10)


@pytest.mark.parametrize("name", ["solver.stage2.prototxt", "net.stage2.prototxt"])
def test_a_missing_file_of_a_stage_is_named(two: JobDirectory, name: str) -> None:
    (two.path / name).unlink()
    with pytest.raises(InputError, match=f"there is no {name}"):
        two.read_plan()


def test_a_plan_whose_stages_lack_a_key(two: JobDirectory) -> None:
    plan = json.loads(two.plan.read_text())
    del plan["stages"][1]["solver"]
    two.plan.write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"no solver in stages\[1\]"):
        two.read_plan()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "random_seed: 1",
            "snapshot_after_train: false",
            "next stage has no snapshot to continue from",
        ),
        ("max_iter: 10", "max_iter: 30", r"stage2.*max_iter is 30, and the stages before do 30"),
    ],
)
def test_solvers_that_make_no_chain(
    two: JobDirectory, before: str, after: str, message: str
) -> None:
    edit(two, 1, before, after)
    with pytest.raises(InputError, match=message):
        read_stages(two.read_plan())
