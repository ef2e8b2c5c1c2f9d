"""A job that real Caffe has finished, shared by the tests that only read it."""

from __future__ import annotations

import pytest

from caffe_batch.runtimes import Runtime
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.planned_jobs import FinishedJob, write_job


@pytest.fixture(scope="session")
def finished(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """60 updates of 3 micro-batches of 6 samples; tests every 20, snapshots every 25."""
    job = write_job(tmp_path_factory.mktemp("finished"), snapshot=25)
    seen: list[Progress] = []
    outcome = train(job, runtime, observer=seen.append)
    return FinishedJob(job, outcome, tuple(seen))
