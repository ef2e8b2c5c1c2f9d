"""Several ranks under the supervisor: one that dies, hangs or lacks memory costs no update."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.torch.snapshots import read_weights
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests import planned_jobs
from tests.engines.torch.in_process import train_on
from tests.planned_jobs import attempts_of, write_job

HARMED = Path(__file__).with_name("rank_worker.py")
KILLED = Path(__file__).with_name("killed_worker.py")
UPDATES, PASSES = 12, 2


@pytest.fixture
def pytorch(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(planned_jobs, "engine", "pytorch")
    return runtimes.find(None, engines.find("pytorch"))


def job_for(folder: Path, ranks: int, updates: int = UPDATES) -> JobDirectory:
    """A job of updates of 2 passes on each rank, with a snapshot every 4."""
    folder.mkdir()
    job = write_job(
        folder, batch_size=5, iter_size=PASSES, max_iter=updates, snapshot=4,
        test_interval=3, lr_policy='"fixed"',
    )  # fmt: skip
    plan = json.loads(job.plan.read_text())
    plan.update(gpus=ranks, effective_batch=5 * PASSES * ranks)
    plan["stages"][0]["effective_batch"] = plan["effective_batch"]
    job.plan.write_text(json.dumps(plan))
    return job


def weights_of(job: JobDirectory) -> list[bytes]:
    newest = list_snapshots(job.snapshots)[-1]
    layers = read_weights(newest.weights)
    return [values.tobytes() for blobs in layers.values() for _, values in blobs.values()]


def uninterrupted(folder: Path, ranks: int, updates: int = UPDATES) -> list[bytes]:
    """The weights of a run to which nothing happens."""
    job = job_for(folder, ranks, updates)
    job.snapshots.mkdir()
    events = folder / "events"
    statuses = train_on(ranks, job.solver, events=events, snapshots=str(job.snapshots))
    assert statuses == [0] * ranks
    return weights_of(job)


@pytest.mark.parametrize(
    ("what", "rank", "in_pass", "reason", "told"),
    [
        pytest.param("SIGKILL", 1, 12, EndReason.KILLED, "rank 1: killed by SIGKILL", id="kill"),
        pytest.param(
            "SIGKILL", 0, 1, EndReason.KILLED, "rank 0: killed by SIGKILL", id="first",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "SIGSTOP", 1, 11, EndReason.STALLED, "rank 1 didn't answer", id="hang",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "memory", 1, 12, EndReason.GPU_MEMORY, "rank 1: CUDA out of memory", id="memory",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_rank_that_comes_to_harm(
    what: str, rank: int, in_pass: int, reason: EndReason, told: str,
    pytorch: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = uninterrupted(tmp_path / "whole", 2)
    job = job_for(tmp_path / "harmed", 2)
    monkeypatch.setenv("HARMED", f"{rank},{in_pass},{what},{tmp_path / 'done'}")
    stall_s = 5.0 if what == "SIGSTOP" else None
    options = Options(device=Device.CPU, stall_timeout_s=stall_s)
    outcome = train(job, pytorch, options, script=HARMED)
    assert outcome.state is JobState.FINISHED
    first, last = attempts_of(job)
    assert first.ending is reason
    assert first.detail is not None
    assert first.detail.startswith(told)
    assert last.first_update == (0 if in_pass < 4 * PASSES else 4)
    if what == "memory":  # rewritten with a smaller split, of the same effective batch
        plan = job.read_plan()
        assert plan.batch_size is not None
        assert plan.batch_size < 5
        assert plan.batch_size * plan.iter_size * plan.gpus == plan.effective_batch
    else:
        assert any("all ranks continue from the newest snapshot" in each for each in last.choices)
        assert weights_of(job) == whole


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(2, 0), *(pytest.param(10, 100 * n, marks=pytest.mark.slow) for n in range(1, 6))],
)
def test_a_rank_killed_at_any_moment(
    kills: int, seed: int, pytorch: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run that goes on after each kill: the moments are drawn, so they lie in tests, too."""
    updates = 8 * kills + 8
    whole = uninterrupted(tmp_path / "whole", 2, updates)
    job = job_for(tmp_path / "killed", 2, updates)
    moments = tmp_path / "moments"
    moments.mkdir()
    monkeypatch.setenv("KILLS", f"{kills},{seed},{moments}")
    for _ in range(kills + 1):
        with suppress(TrainingError):  # too often before the next snapshot
            train(job, pytorch, Options(device=Device.CPU), script=KILLED)
            break
    assert len(list(moments.iterdir())) == kills
    reasons = [each.ending for each in attempts_of(job)]
    assert reasons == [*[EndReason.KILLED] * kills, EndReason.FINISHED]
    assert weights_of(job) == whole


QUICK = [("SIGUSR1", "launcher"), ("SIGHUP", "group")]
SLOW = [
    ("SIGHUP", "launcher"), ("SIGUSR1", "group"), ("SIGTERM", "launcher"), ("SIGTERM", "group"),
    ("SIGINT", "launcher"), ("SIGINT", "group"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "whom"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_a_signal_is_obeyed_by_all_after_the_same_pass(
    number: str, whom: str, pytorch: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first pass of update 6, of whose passes nothing is in the snapshot."""
    whole = uninterrupted(tmp_path / "whole", 2)
    job = job_for(tmp_path / "signalled", 2)
    monkeypatch.setenv("HARMED", f"1,11,{number} to the {whom},{tmp_path / 'done'}")
    outcome = train(job, pytorch, Options(device=Device.CPU), script=HARMED)
    updates = [snapshot.update for snapshot in list_snapshots(job.snapshots)]
    if number == "SIGHUP":
        assert outcome.state is JobState.FINISHED
        assert updates == [4, 5, 8, UPDATES]
        assert weights_of(job) == whole
        for later in list_snapshots(job.snapshots)[2:]:
            later.state.unlink()
        resume = str(list_snapshots(job.snapshots)[1].state)
        ended = train_on(
            2, job.solver, events=tmp_path / "events", snapshots=str(job.snapshots), resume=resume
        )
        assert ended == [0, 0]
    else:
        assert (outcome.state, outcome.update) == (JobState.INTERRUPTED, 5)
        assert updates == [4, 5]
        assert train(job, pytorch, Options(device=Device.CPU)).state is JobState.FINISHED
        assert attempts_of(job)[-1].first_update == 5
    assert weights_of(job) == whole
