"""``train NET`` whose training is refused leaves what was there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch.jobs.directory import JobDirectory
from tests.command import PROGRAM, Result, call, spawn, tree
from tests.planned_jobs import NET, write_lmdb

pytestmark = pytest.mark.usefixtures("runtime")

SOLVER = """net: "tiny.prototxt"
base_lr: 0.1 lr_policy: "fixed" max_iter: 4 snapshot_prefix: "mine" solver_mode: CPU
"""

#: Ways to get to a job: with a plan, and without one.
WAYS = {"planned": ["--gpu-memory", "1GiB", "--reserve", "0"], "as it is": ["--as-is"]}


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> list[str]:
    options: list[str] = WAYS[request.param]
    return options


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a solver, its net and its data."""
    monkeypatch.chdir(tmp_path)
    write_lmdb(tmp_path / "data")
    (tmp_path / "tiny.prototxt").write_text(NET.format(data="data", batch_size=14, width=8))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def refused(way: list[str], *options: object, net: str = "solver.prototxt") -> Result:
    """The result of a training whose job would be written to ``job``."""
    here = Path.cwd()
    before = tree(here)
    result = call("train", net, *way, "--out", "job", *options)
    assert result.code == 2, result
    assert tree(here) == before
    return result


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--weights", "none.caffemodel", "no such file"),
        ("--weights", "text.caffemodel", "text.caffemodel"),
        ("--snapshot", "none_iter_2.solverstate", "no such file"),
        ("--snapshot", "text_iter_2.solverstate", "text_iter_2.caffemodel: no such file"),
    ],
)
def test_files_to_start_from(
    home: Path, way: list[str], option: str, name: str, message: str
) -> None:
    if name.startswith("text"):
        (home / name).write_text("no model of Caffe's\n")
    assert message in refused(way, option, name).err


def test_weights_of_another_net(home: Path, way: list[str]) -> None:
    other = home / "other.prototxt"
    other.write_text((home / "tiny.prototxt").read_text().replace("num_output: 8", "num_output: 9"))
    cb.plan(other, gpu_memory="1GiB", reserve=0, epochs=0.2).write("other").train()
    (weights,) = (home / "other" / "snapshots").glob("*.caffemodel")
    assert "ip1" in refused(way, "--weights", weights).err


def test_labels_beyond_the_classes(home: Path) -> None:
    """A plan looks at the data itself; without one, the training is the first to do so."""
    net = home / "tiny.prototxt"
    net.write_text(net.read_text().replace("num_output: 4", "num_output: 3"))
    assert "label" in refused(WAYS["as it is"]).err


def test_an_output_that_no_test_has(home: Path, way: list[str]) -> None:
    with (home / "solver.prototxt").open("a") as solver:
        solver.write("test_iter: 7 test_interval: 2\n")
    assert "no such output" in refused(way, "--keep-best", "acuracy").err


def test_a_layer_type_that_this_caffe_lacks(home: Path) -> None:
    net = home / "tiny.prototxt"
    net.write_text(net.read_text().replace('"ReLU"', '"Mish"'))
    assert "Mish" in refused(WAYS["as it is"]).err


def test_what_was_in_the_directory_stays(home: Path, way: list[str]) -> None:
    (home / "job" / "snapshots").mkdir(parents=True)
    (home / "job" / "notes.txt").write_text("mine\n")
    refused(way, "--weights", "none.caffemodel")
    assert (home / "job" / "notes.txt").read_text() == "mine\n"


def test_directories_above_it_go_as_well(home: Path, way: list[str]) -> None:
    before = tree(home)
    options = ["--out", "runs/today/job", "--weights", "none.caffemodel"]
    assert call("train", "solver.prototxt", *way, *options).code == 2
    assert tree(home) == before


def test_in_the_background(home: Path, way: list[str]) -> None:
    before = tree(home)
    command = [
        PROGRAM, "train", "solver.prototxt", *way, "--out", "job", "--detach",
        "--weights", "none.caffemodel",
    ]  # fmt: skip
    result = spawn(*command, cwd=home)
    assert result.code == 2
    assert "none.caffemodel" in result.err
    assert tree(home) == before


def test_an_interrupt_before_the_training_begins(
    home: Path, way: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caffe_batch.training.supervisor.look_ahead", interrupted)
    before = tree(home)
    assert call("train", "solver.prototxt", *way, "--out", "job").code == 130
    assert tree(home) == before


def test_a_job_that_was_planned_before_stays(home: Path) -> None:
    assert call("plan", "solver.prototxt", *WAYS["planned"], "--out", "job").code == 0
    before = tree(home)
    result = call("train", "job", "--weights", "none.caffemodel")
    assert result.code == 2
    left = tree(home)
    assert {name: left[name] for name in before} == before


def test_a_training_that_has_begun_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caffe itself fails after it was started: its log and job.json are there to be read."""

    def fails(*args: object) -> None:
        raise OSError(5, "the disk is gone", "caffe.log")

    monkeypatch.setattr("caffe_batch.training.run.Run._follow", fails)
    result = call("train", "solver.prototxt", *WAYS["planned"], "--out", "job")
    assert result.code == 4, result
    assert JobDirectory(home / "job").read_record() is not None


def test_only_the_write_that_made_it_is_taken_back(home: Path) -> None:
    plan = cb.plan("solver.prototxt", gpu_memory="1GiB", reserve=0)
    before = tree(home)
    job = plan.write("job")
    cb.Job("job").take_back()
    assert job.is_planned
    job.take_back()
    assert tree(home) == before
    again = plan.write("job")
    job.take_back()
    assert again.is_planned


def test_a_trained_job_is_never_taken_back(home: Path) -> None:
    job = cb.plan("solver.prototxt", gpu_memory="1GiB", reserve=0).write("job")
    job.train()
    before = tree(home)
    job.take_back()
    assert tree(home).keys() == before.keys()
    assert cb.Job("job").status().state.value == "finished"
