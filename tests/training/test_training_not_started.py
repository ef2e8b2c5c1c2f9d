"""An engine that can't be loaded where its worker runs: neither the run nor its plan changes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from caffe_batch import engines
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import EndReason
from caffe_batch.runtimes import Runtime, inspection
from caffe_batch.training.supervisor import train
from tests import planned_jobs
from tests.both_engines import runtime as runtime
from tests.command import call
from tests.planned_jobs import attempts_of, write_job
from tests.training.test_training_recovery import Limited, address_space

#: What may stand in the place of an engine's module.
MODULES = {
    "that raises": "raise ImportError('libtorch.so: cannot open shared object file')",
    "of another thing": "'no engine at all'",
}


#: A torch that the worker doesn't run on.
OLD_TORCH = """
__version__ = "2.3.1+cpu"
class version:
    cuda = hip = None
"""


@dataclass(frozen=True)
class Overlaid(Runtime):
    """A runtime that finds the modules of a folder first."""

    inner: Runtime
    folder: Path

    def command(self, args: Sequence[str]) -> list[str]:
        return self.inner.command(args)

    def environment(self) -> dict[str, str]:
        own = self.inner.environment()
        named = [str(self.folder), own.get("PYTHONPATH", "")]
        return {**own, "PYTHONPATH": os.pathsep.join(filter(None, named))}


def interrupted(folder: Path, runtime: Runtime) -> JobDirectory:
    """A job that has made 10 of 20 updates."""
    job = write_job(folder, max_iter=10)
    train(job, runtime)
    job.solver.write_text(job.solver.read_text().replace("max_iter: 10", "max_iter: 20"))
    return job


def check_kept(job: JobDirectory, runtime: Runtime, plan: str) -> None:
    """The run goes on as if nothing had been."""
    assert attempts_of(job)[-1].ending is EndReason.NOT_STARTED
    assert job.plan.read_text() == plan
    assert [each.update for each in list_snapshots(job.snapshots)] == [10]
    assert train(job, runtime).update == 20
    assert attempts_of(job)[-1].first_update == 10


@pytest.mark.parametrize(
    "module", [pytest.param("that raises", marks=pytest.mark.both), "of another thing"]
)
def test_a_module_that_cannot_be_used(module: str, runtime: Runtime, tmp_path: Path) -> None:
    job = interrupted(tmp_path, runtime)
    plan = job.plan.read_text()
    engine = engines.find(planned_jobs.engine)
    package = tmp_path / "first" / engine.module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MODULES[module])
    with pytest.raises(
        TrainingError, match=r"at update 10 of 20: not started: .*Error: "
    ) as failure:
        train(job, Overlaid("overlaid", runtime, package.parent))
    assert "doctor` says whether it can be loaded" in str(failure.value.hint)
    check_kept(job, runtime, plan)


def test_memory_that_does_not_suffice_for_the_engine_itself(
    runtime: Runtime, tmp_path: Path
) -> None:
    """A smaller split would not help, and would stay in the plan."""
    job = interrupted(tmp_path, runtime)
    plan = job.plan.read_text()
    with pytest.raises(TrainingError, match="not started: ") as failure:
        train(job, Limited("limited", runtime, address_space(runtime) // 2))
    assert "ulimit -v" in str(failure.value.hint)
    check_kept(job, runtime, plan)


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Runtimes are asked again what they are, before and after."""
    inspection.forget()
    yield
    inspection.forget()


@pytest.mark.usefixtures("asked_again")
def test_a_torch_that_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command refuses one that is broken or too old before it begins."""
    monkeypatch.setattr(planned_jobs, "engine", "pytorch")
    job = write_job(tmp_path)
    for folder, code, told in (
        (
            "broken",
            MODULES["that raises"],
            "ImportError: libtorch.so: cannot open shared object file",
        ),
        ("old", OLD_TORCH, "has torch 2.3.1+cpu, and 2.4 or newer is needed"),
    ):
        package = tmp_path / folder / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        inspection.forget()
        done = call("train", job.path, "--engine", "pytorch")
        assert done.code == 5
        assert told in done.err
        assert "pip install 'caffe-batch[torch]'" in done.err
    assert not job.record.exists()
