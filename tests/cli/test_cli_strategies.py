"""``caffe-batch strategies`` and the options of ``compare``, called as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import prototxt
from caffe_batch.cli.compare import NAMES
from caffe_batch.planning.strategies.strategies import WAYS
from caffe_batch.training import JobDirectory
from tests.command import call, tree
from tests.planned_jobs import RECORDS, write_lmdb
from tests.small_memory import BATCH, SMALL, SOLVER, read_model, tight, write_recipe

NUMBER = (int, float)
NONE = type(None)

#: What other programs may count on, with its type.
KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str, "title": str, "possible": bool, "why_not": (str, NONE),
    "effective_batch": (int, NONE), "batch_size": (int, NONE), "iter_size": (int, NONE),
    "learning_rate": NUMBER, "momentum": NUMBER, "updates_per_epoch": (float, NONE),
    "updates": (int, NONE), "mode": (str, NONE), "predicted_peak_bytes": (int, NONE),
    "noise_relative": (float, NONE), "warnings": list, "changes": list,
}  # fmt: skip
RECIPE_KEYS: dict[str, type | tuple[type, ...]] = {
    "effective_batch": int, "learning_rate": float, "momentum": float, "solver_type": str,
    "train_records": int, "predicted_peak_bytes": int, "budget_bytes": int, "reserve_bytes": int,
    "fits": bool,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lmdb(tmp_path_factory.mktemp("data") / "lmdb")


@pytest.fixture
def folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_recipe(tmp_path, data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def memory(folder: Path) -> tuple[object, ...]:
    """Options for which a pass holds SMALL samples."""
    budget = tight(read_model(folder / "solver.prototxt"))
    return ("--gpu-memory", f"{budget.budget_bytes}B", "--reserve", 0)


def strategies_json(folder: Path, *options: object) -> dict[str, Any]:
    done = call("strategies", "solver.prototxt", *memory(folder), *options, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def check_types(found: dict[str, Any], keys: dict[str, type | tuple[type, ...]]) -> None:
    assert {key: isinstance(found[key], kind) for key, kind in keys.items()} == dict.fromkeys(
        keys, True
    )


def test_the_names_are_those_of_the_library() -> None:
    assert tuple(WAYS) == NAMES


def test_json(folder: Path) -> None:
    found = strategies_json(folder)
    check_types(found["recipe"], RECIPE_KEYS)
    assert [way["name"] for way in found["strategies"]] == list(WAYS)
    for way in found["strategies"]:
        check_types(way, KEYS)
        assert way["possible"] == (way["why_not"] is None) == (way["batch_size"] is not None)
    assert (found["recipe"]["fits"], found["recipe"]["train_records"]) == (False, RECORDS)
    assert found["directory"] is None


def test_the_table(folder: Path) -> None:
    before = tree(folder)
    done = call("strategies", "solver.prototxt", *memory(folder))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"The recipe: {BATCH} samples per update, rate 0.08, momentum 0.9: ")
    rows = {line.split()[0]: line.split() for line in lines if line[:1].isalpha()}
    assert rows["accumulate"][1:6] == ["4", "x", "6", "0.08", "0.9"]
    assert rows["small-linear"][1:4] == ["4", "x", "1"]
    assert float(rows["small-linear"][4]) == pytest.approx(0.08 / 6, rel=1e-5)
    assert rows["momentum-alone"][9:11] == ["x", "36"]
    assert done.out.endswith("Nothing is written without --out DIR.\n")
    assert "Not possible" in lines
    assert rows["grow"][1] == "The"
    assert tree(folder) == before


def test_out_writes_jobs_that_can_be_trained(folder: Path) -> None:
    found = strategies_json(folder, "--out", "ways")
    written = json.loads((folder / "ways" / "strategies.json").read_text())
    assert written["strategies"] == found["strategies"]
    assert written["request"]["gpu_memory"] == str(memory(folder)[1])
    possible = {way["name"]: way for way in found["strategies"] if way["possible"]}
    assert {path.name for path in (folder / "ways").iterdir()} == {*possible, "strategies.json"}
    for name, way in possible.items():
        job = JobDirectory(folder / "ways" / name)
        facts = job.read_plan()
        assert (facts.batch_size, facts.iter_size) == (way["batch_size"], way["iter_size"])
        assert facts.cpu_mode == (name == "cpu")
        solver = prototxt.read_solver(job.solver)
        assert solver.max_iter == way["updates"]
        assert solver.base_lr == pytest.approx(way["learning_rate"])
        assert solver.momentum == pytest.approx(way["momentum"])
        assert prototxt.read_net(job.net).layer[0].data_param.batch_size == way["batch_size"]
        listed = {change["field"] for change in json.loads(job.plan.read_text())["changes"]}
        assert {change["field"] for change in way["changes"]} <= listed


def test_epochs_and_the_recipes_batch(folder: Path) -> None:
    found = strategies_json(folder, "--epochs", 12, "--recipe-batch", BATCH // 2)
    ways = {way["name"]: way for way in found["strategies"] if way["possible"]}
    samples = {way["updates"] * way["effective_batch"] for way in ways.values()}
    assert samples == {round(12 * RECORDS / BATCH) * BATCH}
    assert ways["small"]["effective_batch"] == SMALL


def test_a_net_alone_gets_the_templates_solver(folder: Path) -> None:
    done = call("strategies", "net.prototxt", *memory(folder), "--json")
    assert done.code == 0
    assert "note: no solver was given" in done.err
    ways = {way["name"]: way for way in json.loads(done.out)["strategies"]}
    assert (
        ways["small"]["updates"] == ways["accumulate"]["updates"] * ways["accumulate"]["iter_size"]
    )


def test_nothing_fits(folder: Path) -> None:
    done = call("strategies", "solver.prototxt", "--gpu-memory", "999B", "--reserve", 0)
    assert (done.code, done.out) == (3, "")
    assert "batch_size 1 needs" in done.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("strategies", "gone.prototxt", "--gpu-memory", "1GiB"), "there is no such file"),
        (("strategies", "solver.prototxt"), "how much memory may the run use?"),
        (("strategies", "solver.prototxt", "--gpu-memory", "1GiB", "--out", "."), "is not empty"),
        (("strategies", "solver.prototxt", "--gpu-memory", "1GiB", "--effective-batch", 0),
         "has no samples"),
        (("strategies", "elsewhere.prototxt", "--gpu-memory", "1GiB", "--epochs", 2,
          "--input-shape", "data=1x5x7"), "Give --train-records"),
        (("compare", "solver.prototxt", "--gpu-memory", "1GiB"), "where do the trainings go?"),
        (("compare", "solver.prototxt", "--gpu-memory", "1GiB", "--out", "x", "--cpu", "--gpu", 0),
         "--cpu and --gpu exclude each other"),
        (("compare", "solver.prototxt", "--strategy", "smal"), "'smal' is not one of"),
        (("compare", "solver.prototxt", "--seeds", 0), "0 is not in the range"),
        (("compare", "empty"), "there is no strategies.json"),
        (("compare", "ways", "--out", "other"), "--out: ways holds its strategies already"),
        (("compare", "ways", "--effective-batch", 8), "--effective-batch: ways holds its"),
        (("compare", "solver.prototxt", "--gpu-memory", "2GiB", "--out", "ways"),
         "ways was begun with another gpu_memory: 1GiB, not 2GiB"),
        (("compare", "ways", "--strategy", "small"), "'small' is not possible here: the whole"),
        (("compare", "elsewhere.prototxt", "--gpu-memory", "1GiB", "--reserve", 0, "--out", "new",
          "--strategy", "accumulate"), "the size of 'data' is not known"),
        (("compare", "untested.prototxt", "--gpu-memory", "1GiB", "--out", "new"),
         "the recipe has no tests"),
    ],
)  # fmt: skip
def test_bad_input(folder: Path, args: tuple[object, ...], says: str) -> None:
    (folder / "empty").mkdir()
    net = (folder / "net.prototxt").read_text().replace("/lmdb", "/gone")
    (folder / "gone_net.prototxt").write_text(net)
    (folder / "elsewhere.prototxt").write_text(SOLVER.replace("net.proto", "gone_net.proto"))
    untested = SOLVER.replace("test_iter: 7  test_interval: 10", "")
    (folder / "untested.prototxt").write_text(untested)
    wide = ("--gpu-memory", "1GiB", "--reserve", 0)
    if "ways" in args:
        made = call("strategies", "solver.prototxt", *wide[:2], "--out", "ways")
        assert made.code == 0, made.err
    done = call(*args)
    assert done.code == 2, done.err
    assert done.out == ""
    assert says in done.err
    assert "Traceback" not in done.err
