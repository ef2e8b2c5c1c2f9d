"""Lets the tests of a module run on both engines.

    from tests.both_engines import runtime as runtime

replaces the fixture ``runtime``, and the jobs that ``write_job`` writes are for its engine. A
worker of PyTorch takes seconds to start: only tests marked ``both`` run on it by default, the
others are slow there (conftest.py).
"""

from __future__ import annotations

import pytest

from caffe_batch import engines, runtimes
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import Runtime
from tests import planned_jobs

#: Trains a job in a process of its own, with its engine: the arguments are the job's directory and
#: the runtime's name.
TRAIN = """
import sys
from caffe_batch import runtimes
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.supervisor import train
job, name = JobDirectory(sys.argv[1]), sys.argv[2]
train(job, runtimes.find(name) if job.read_plan().engine == "caffe" else Interpreter(name))
"""


@pytest.fixture(params=engines.NAMES)
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The runtime of an engine, which the jobs are for."""
    name: str = request.param
    monkeypatch.setattr(planned_jobs, "engine", name)
    try:
        return runtimes.find(None, engines.find(name))
    except RuntimeMissingError as error:
        pytest.fail(f"this test runs {name} itself: {error}", pytrace=False)
