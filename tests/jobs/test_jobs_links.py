"""A job directory of somebody else: nothing is written outside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.jobs.strategy_files import read_strategies
from caffe_batch.runtimes import Runtime
from caffe_batch.training.supervisor import train
from tests.command import call
from tests.planned_jobs import FinishedJob, write_job


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    return write_job(tmp_path)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


def unharmed(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (
        victim / "file"
    ).read_text() == "precious"


FILES = (
    "metrics.jsonl", "metrics.jsonl.damaged", "metrics.jsonl.new", "caffe.log", "caffe.log.new",
    "caffe.log.1", "loss.png", "train.log", ".worker/lock", ".worker/rewrite.json",
    ".worker/solver.prototxt", ".worker/resume.solverstate", "snapshots/tiny_iter_60.solverstate",
    "snapshots/tiny_iter_60.caffemodel", "snapshots/tiny_iter_60.solverstate.json",
)  # fmt: skip
FOLDERS = (
    ".worker", "snapshots", "tensorboard", ".worker/nets", ".previous", ".previous.part",
    ".previous.old", ".failed",
)  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--restart",), ("--detach",)])
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_train_refuses_links(
    name: str, options: tuple[str, ...], job: JobDirectory, victim: Path, runtime: Runtime
) -> None:
    for missing in (False, True):
        link = job.path / name
        link.parent.mkdir(exist_ok=True)
        target = victim if name in FOLDERS else victim / ("none" if missing else "file")
        link.symlink_to(target)
        done = call("train", job.path, *options)
        assert done.code == 2, done.err
        assert f"{link} is a link to {target}" in done.err
        assert unharmed(victim)
        link.unlink()


@pytest.mark.parametrize("name", ["job.json", "plan.json", "solver.prototxt", "net.prototxt"])
def test_files_that_are_replaced_replace_a_link(
    name: str, job: JobDirectory, victim: Path, runtime: Runtime
) -> None:
    path = job.path / name
    content = path.read_text() if path.exists() else ""
    (victim / "file").write_text(content)
    path.unlink(missing_ok=True)
    path.symlink_to(victim / ("file" if content else "none"))
    job.rewrite({path: f"{content}\n"} if content else {})
    assert train(job, runtime).update == 60
    assert not path.is_symlink()
    assert [each.name for each in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == content


def test_a_report_replaces_a_link(finished: FinishedJob, victim: Path) -> None:
    finished.job.report.unlink(missing_ok=True)
    finished.job.report.symlink_to(victim / "file")
    assert call("report", finished.job.path).code == 0
    assert unharmed(victim)
    assert finished.job.report.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("command", ["status", "stop"])
@pytest.mark.parametrize("name", [".worker", ".worker/lock"])
def test_a_lock_elsewhere_is_nobodys(
    command: str, name: str, job: JobDirectory, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = write_job(tmp_path / "other")
    with other.lock():
        link = job.path / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(other.path / name)
        done = call(command, job.path)
        assert done.code == 2
        assert f"{link} is a link to" in done.err


@pytest.mark.parametrize("name", ["{victim}/file", "../victim/file", "..", "", "a/../../victim/b"])
def test_the_journal_stays_inside(
    name: str, job: JobDirectory, victim: Path, runtime: Runtime
) -> None:
    job.worker_folder.mkdir()
    before = job.net.read_text()
    journal = {"net.prototxt": "changed", name.format(victim=victim): "written"}
    job.rewrite_file.write_text(json.dumps(journal))
    done = call("train", job.path)
    assert (done.code, "Traceback" in done.err) == (2, False)
    assert "which is not a file of the job" in done.err
    assert unharmed(victim)
    assert job.net.read_text() == before


def test_no_change_of_a_file_elsewhere(job: JobDirectory, victim: Path) -> None:
    with pytest.raises(InputError, match="is not in the job directory"):
        job.rewrite({job.net: "changed", victim / "file": "changed"})
    assert unharmed(victim)
    assert not job.rewrite_file.exists()


@pytest.mark.parametrize("field", ["solver", "net"])
@pytest.mark.parametrize("name", ["../victim/file", "/etc/passwd", "..", "a/b"])
def test_stages_are_files_of_the_job(field: str, name: str, job: JobDirectory) -> None:
    plan = json.loads(job.plan.read_text())
    plan["stages"][0][field] = name
    job.plan.write_text(json.dumps(plan))
    with pytest.raises(InputError, match=f"{field} should be the name of a file"):
        PlanFile.read(job.plan)


Spoil = Callable[[Path, Path], None]


def link_runs(directory: Path, victim: Path) -> None:
    (directory / "runs").symlink_to(victim)


def link_a_way(directory: Path, victim: Path) -> None:
    (directory / "runs").mkdir()
    (directory / "runs" / "small").symlink_to(victim)


def link_a_seed(directory: Path, victim: Path) -> None:
    (directory / "runs" / "small").mkdir(parents=True)
    (directory / "runs" / "small" / "seed-1").symlink_to(victim)


def name_a_way(directory: Path, victim: Path) -> None:
    file = directory / "strategies.json"
    file.write_text(file.read_text().replace('"small"', '"../../victim"'))


@pytest.mark.parametrize("spoil", [link_runs, link_a_way, link_a_seed, name_a_way])
def test_a_comparison_stays_inside(spoil: Spoil, tmp_path: Path, victim: Path) -> None:
    directory = tmp_path / "ways"
    (directory / "small").mkdir(parents=True)
    planned = write_job(tmp_path)
    for file in planned.path.iterdir():
        (directory / "small" / file.name).write_bytes(file.read_bytes())
    way = {"name": "small", "title": "", "possible": True, "learning_rate": 1, "momentum": 0}
    content = {"format": 2, "recipe": {}, "strategies": [way]}
    (directory / "strategies.json").write_text(json.dumps(content))
    assert [each.name for each in read_strategies(directory).ways] == ["small"]
    spoil(directory, victim)
    done = call("compare", directory, "--seeds", 1)
    assert (done.code, "Traceback" in done.err) == (2, False)
    assert unharmed(victim)
