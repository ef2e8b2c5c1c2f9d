"""Several ranks under the supervisor: one that dies, hangs or lacks memory costs no update."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.engines.torch.snapshots import read_weights
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
UPDATES, PASSES = 12, 2


@pytest.fixture
def pytorch(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(planned_jobs, "engine", "pytorch")
    return runtimes.find(None, engines.find("pytorch"))


def job_for(folder: Path, ranks: int) -> JobDirectory:
    """A job of 12 updates of 2 passes on each rank, with a snapshot every 4."""
    folder.mkdir()
    job = write_job(
        folder, batch_size=5, iter_size=PASSES, max_iter=UPDATES, snapshot=4,
        test_interval=3, lr_policy='"fixed"',
    )  # fmt: skip
    plan = json.loads(job.plan.read_text())
    plan.update(gpus=ranks, effective_batch=5 * PASSES * ranks)
    plan["stages"][0]["effective_batch"] = plan["effective_batch"]
    job.plan.write_text(json.dumps(plan))
    return job


def weights_of(job: JobDirectory) -> list[bytes]:
    layers = read_weights(job.snapshots / f"tiny_iter_{UPDATES}.caffemodel")
    return [values.tobytes() for blobs in layers.values() for _, values in blobs.values()]


def uninterrupted(folder: Path, ranks: int) -> list[bytes]:
    """The weights of a run to which nothing happens."""
    job = job_for(folder, ranks)
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
        assert any("all ranks go on from the newest snapshot" in each for each in last.choices)
        assert weights_of(job) == whole


@pytest.mark.slow
def test_a_rank_killed_at_any_moment(
    pytorch: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = uninterrupted(tmp_path / "whole", 2)
    draw = random.Random(14)
    for number in range(50):
        rank, in_pass = draw.randrange(2), draw.randint(1, UPDATES * PASSES)
        job = job_for(tmp_path / str(number), 2)
        monkeypatch.setenv("HARMED", f"{rank},{in_pass},SIGKILL,{tmp_path / f'{number}.done'}")
        outcome = train(job, pytorch, Options(device=Device.CPU), script=HARMED)
        assert outcome.state is JobState.FINISHED
        assert weights_of(job) == whole, (rank, in_pass)
