"""``caffe-batch compare``: its files, its table and its JSON, on real Caffe."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from caffe_batch import __version__
from tests.command import Result, call
from tests.small_memory import BATCH, SMALL, read_model, tight, write_recipe

ARGS = ("--strategy", "accumulate", "--strategy", "small-momentum", "--seeds", 2, "--jobs", 2,
        "--cpu")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def options(folder: Path) -> tuple[object, ...]:
    budget = tight(read_model(folder / "solver.prototxt"))
    return (folder / "solver.prototxt", "--gpu-memory", f"{budget.budget_bytes}B", "--reserve", 0,
            "--effective-batch", BATCH, "--out", folder / "run")  # fmt: skip


@pytest.fixture(scope="module")
def first(folder: Path, options: tuple[object, ...]) -> Result:
    return call("compare", *options, *ARGS)


def test_the_table(folder: Path, first: Result) -> None:
    assert first.code == 0, first.err
    lines = first.out.splitlines()
    assert lines[0] == (
        "The last test of 2 trainings each, mean ± standard deviation over the seeds"
    )
    header = lines[2].split()
    assert header == ["strategy", "batch", "rate", "momentum", "noise", "accuracy", "loss",
                      "samples", "seconds"]  # fmt: skip
    rows = [line for line in lines[3:] if " ± " in line]
    assert [row.split()[0] for row in rows] == ["accumulate", "small-momentum"]
    assert all(re.search(r"\d\.\d{4} ± \d\.\d{4} +\d\.\d{4} ± \d\.\d{4} +480 ", r) for r in rows)
    assert lines[-1] == f"files: {folder / 'run'}"
    ended = [line for line in first.err.splitlines() if ", seed " in line]
    assert len(ended) == 4
    assert all(re.fullmatch(r"[\w-]+, seed \d: score [\d.]+, loss .*, .* s", e) for e in ended)


def test_the_files(folder: Path, first: Result) -> None:
    assert first.code == 0, first.err
    run = folder / "run"
    assert (run / "compare.png").read_bytes().startswith(b"\x89PNG\r\n")
    found = json.loads((run / "compare.json").read_text())
    assert (found["score"], found["loss"], found["seeds"], found["jobs"]) == (
        "accuracy", "loss", [1, 2], 2,
    )  # fmt: skip
    assert str(folder) not in json.dumps(found)
    accumulated, small = found["strategies"]
    assert (accumulated["name"], small["name"]) == ("accumulate", "small-momentum")
    assert (small["batch_size"], small["iter_size"], small["noise_relative"]) == (SMALL, 1, 1.0)
    for way in found["strategies"]:
        assert set(way["score"]) == set(way["loss"]) == {"mean", "sd", "min", "max"}
        assert way["samples"] == 20 * BATCH
        assert (way["diverged"], way["failed"]) == (0, 0)
        assert [each["seed"] for each in way["runs"]] == [1, 2]
        scores = [each["score"] for each in way["runs"]]
        assert way["score"]["mean"] == pytest.approx(sum(scores) / 2)
        assert way["curve"][-1]["score"] == way["score"]["mean"]
        assert way["curve"][-1]["loss_sd"] == way["loss"]["sd"]
        assert all((run / each["directory"] / "job.json").is_file() for each in way["runs"])


def test_called_again_it_trains_nothing_anew(
    folder: Path, first: Result, options: tuple[object, ...]
) -> None:
    assert first.code == 0, first.err
    logs = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("caffe.log")}
    assert len(logs) == 4
    again = call("compare", *options, *ARGS, "--json")
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    written = json.loads((folder / "run" / "compare.json").read_text())
    assert written.pop("format") == 2
    assert written.pop("caffe_batch_version") == __version__
    assert json.loads(again.out) == written
    by_directory = call("compare", folder / "run", *ARGS)
    assert by_directory.out == first.out


def test_a_damaged_plan_stops_only_its_own_trainings(
    folder: Path, first: Result, tmp_path: Path
) -> None:
    """The first of all, which otherwise says the engine; what has finished stays finished."""
    assert first.code == 0, first.err
    run = shutil.copytree(folder / "run", tmp_path / "run")
    (run / "accumulate" / "plan.json").write_text('{"format": 2')
    shutil.rmtree(run / "runs" / "accumulate" / "seed-1")
    done = call("compare", run, *ARGS, "--json")
    assert done.code == 0, done.err
    accumulated, small = json.loads(done.out)["strategies"]
    assert (accumulated["failed"], small["failed"]) == (1, 0)
    assert "plan.json: not JSON" in accumulated["runs"][0]["failure"]


def test_a_recipe_without_tests_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    solver = tmp_path / "solver.prototxt"
    text = re.sub(r"test_(iter|interval|initialization): \S+", "", solver.read_text())
    solver.write_text(text)
    done = call("compare", solver, "--gpu-memory", "1GiB", "--out", tmp_path / "run", *ARGS)
    assert (done.code, done.out) == (2, "")
    assert "has no tests, so there is nothing to compare" in done.err
    assert not (tmp_path / "run").exists()
