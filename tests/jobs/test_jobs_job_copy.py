"""A job copied for another seed: its own files, its own paths, nothing of the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch import prototxt
from caffe_batch.errors import InputError
from caffe_batch.jobs import job_files
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_copy import copy_job
from caffe_batch.jobs.job_files import write_job
from caffe_batch.jobs.stages import read_stages
from caffe_batch.planning import make_plan
from caffe_batch.planning.schedule.growth import Schedule
from tests.small_memory import SOLVER, options, read_model, tight, write_recipe


def test_paths_seed_and_plan(tmp_path: Path) -> None:
    model = read_model(write_recipe(tmp_path, solver=SOLVER + "random_seed: 8\n"))
    plan = make_plan(model, tight(model), options())
    write_job(plan, model.recipe, None, model.sources, tmp_path / "job")
    (tmp_path / "job" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "job" / "snapshots" / "snapshot_iter_3.solverstate").write_text("")
    files = copy_job(tmp_path / "job", tmp_path / "runs" / "other", 41)
    assert files.directory == tmp_path / "runs" / "other"
    names = sorted(path.name for path in files.directory.rglob("*"))
    assert names == ["net.prototxt", "plan.json", "snapshots", "solver.prototxt"]
    solver = prototxt.read_solver(files.solver)
    assert (solver.net, solver.random_seed) == (str(files.net), 41)
    assert solver.snapshot_prefix == str(files.snapshot_prefix)
    old = prototxt.read_solver(tmp_path / "job" / "solver.prototxt")
    for field in ("net", "snapshot_prefix", "random_seed"):
        solver.ClearField(field)
        old.ClearField(field)
    assert solver == old
    assert files.net.read_text() == (tmp_path / "job" / "net.prototxt").read_text()
    assert files.solver.read_text().startswith("# My recipe.\n")
    before = json.loads((tmp_path / "job" / "plan.json").read_text())
    after = json.loads(files.plan.read_text())
    assert "/job/" not in json.dumps([after["changes"], after["files"]])
    assert after["changes"][-1] == {
        "file": "solver.prototxt", "field": "random_seed", "from": 8, "to": 41,
        "reason": "one of several trainings that differ by chance alone",
        "layer_index": None, "layer_name": "", "path": ["random_seed"],
    }  # fmt: skip
    assert len(after["changes"]) == len(before["changes"]) + 1
    same = set(before) - {"changes", "files"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert JobDirectory(files.directory).read_plan().iter_size == plan.iter_size


def test_every_stage_is_copied(tmp_path: Path) -> None:
    model = read_model(write_recipe(tmp_path))
    growing = replace(options(), growth=Schedule.GROW, train_records=1000)
    plan = make_plan(model, tight(model), growing)
    write_job(plan, model.recipe, None, model.sources, tmp_path / "job")
    files = copy_job(tmp_path / "job", tmp_path / "other", 3)
    first, second = read_stages(JobDirectory(files.directory).read_plan())
    assert (first.solver.random_seed, second.solver.random_seed) == (3, 3)
    assert second.path == files.stage_solver(2)
    assert second.solver.net == str(files.stage_net(2))
    stages = json.loads(files.plan.read_text())["stages"]
    assert [each["changes"][-1]["field"] for each in stages] == ["random_seed"] * 2


def test_test_nets_of_their_own(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    net = (tmp_path / "net.prototxt").read_text()
    (tmp_path / "test.prototxt").write_text(net)
    text = SOLVER.replace('net: "net', 'test_net: "test.prototxt" train_net: "net')
    (tmp_path / "solver.prototxt").write_text(text)
    model = read_model(tmp_path / "solver.prototxt")
    plan = make_plan(model, tight(model), options())
    write_job(plan, model.recipe, None, model.sources, tmp_path / "job")
    files = copy_job(tmp_path / "job", tmp_path / "other", 3)
    solver = prototxt.read_solver(files.solver)
    assert (solver.train_net, list(solver.test_net)) == (str(files.net), [str(files.test_net(0))])
    assert files.test_net(0).is_file()


def test_what_is_not_a_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no plan\.json, so this is not a job directory"):
        copy_job(tmp_path, tmp_path / "other", 1)
    assert not (tmp_path / "other").exists()


def test_a_job_in_the_way_stays(tmp_path: Path) -> None:
    model = read_model(write_recipe(tmp_path))
    plan = make_plan(model, tight(model), options())
    for name in ("job", "other"):
        write_job(plan, model.recipe, None, model.sources, tmp_path / name)
    with pytest.raises(InputError, match="holds a job already"):
        copy_job(tmp_path / "job", tmp_path / "other", 1)


@pytest.mark.parametrize("meanwhile", ["runs", "runs/other", "runs/other/snapshots"])
def test_a_directory_that_another_thread_makes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    model = read_model(write_recipe(tmp_path))
    plan = make_plan(model, tight(model), options())
    write_job(plan, model.recipe, None, model.sources, tmp_path / "job")
    listed = job_files._missing_directories

    def after_listing(path: Path) -> list[Path]:
        missing = listed(path)
        (tmp_path / meanwhile).mkdir(parents=True)
        return missing

    monkeypatch.setattr(job_files, "_missing_directories", after_listing)
    copy_job(tmp_path / "job", tmp_path / "runs" / "other", 41)
    assert (tmp_path / "runs" / "other" / "plan.json").is_file()


def test_a_copy_that_fails_leaves_what_others_made(tmp_path: Path) -> None:
    model = read_model(write_recipe(tmp_path))
    plan = make_plan(model, tight(model), options())
    write_job(plan, model.recipe, None, model.sources, tmp_path / "job")
    (tmp_path / "runs" / "other" / "snapshots").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "net.prototxt").mkdir()  # what a text can't replace
    with pytest.raises(OSError, match=r"net\.prototxt"):
        copy_job(tmp_path / "job", tmp_path / "runs" / "other", 41)
    assert (tmp_path / "runs" / "other" / "snapshots").is_dir()
