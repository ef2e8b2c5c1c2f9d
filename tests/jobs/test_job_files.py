"""A plan becomes a job directory: only the planned fields change, and real Caffe runs it."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import prototxt
from caffe_batch.api.recipes import with_solver
from caffe_batch.errors import InputError
from caffe_batch.jobs.job_files import JobFiles, write_job
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, Plan, PlanOptions, make_plan

Pycaffe = Callable[..., str]

NET = """\
# My net, carefully laid out.
name: "mine"   # yes
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 24 dim: 3 dim: 5 dim: 7 }   shape { dim: 24 } # labels
  } }
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST }
  dummy_data_param { shape { dim: 10 dim: 3 dim: 5 dim: 7 } shape { dim: 10 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """\
net: "net.prototxt"  # relative
base_lr: 0.1; lr_policy: "fixed"
max_iter: 3\ttest_iter: 2\ttest_interval: 2
# the end
"""
SMALL = 4  # the batch_size that the budgets of these tests have room for

SOLVE = """
import sys
import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format
with open(sys.argv[1]) as file:
    read = text_format.Parse(file.read(), caffe_pb2.SolverParameter())
solver = caffe.get_solver(sys.argv[1])
solver.step(3)
print(solver.iter, solver.net.blobs["data"].shape[0], solver.test_nets[0].blobs["data"].shape[0],
      read.iter_size)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_bytes(NET.encode())
    (tmp_path / "solver.prototxt").write_bytes(SOLVER.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_into(out: Path, *files: str) -> tuple[Plan, JobFiles]:
    recipe = read_recipe(*files)
    sources = Sources(recipe.directories)
    recipe, made = with_solver(recipe, sources)
    model = CaffeMemory(recipe, sources)
    plan = make_plan(
        model, Budget(model.at(SMALL).allocated_bytes, 0), PlanOptions(keep_tests=True)
    )
    assert plan.batch_size == SMALL
    return plan, write_job(plan, recipe, made.text if made else None, sources, out)


def changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


def test_only_the_planned_fields_change(folder: Path) -> None:
    plan, files = plan_into(folder / "job", "solver.prototxt")
    assert (plan.batch_size, plan.iter_size) == (4, 6)
    line = (
        "  dummy_data_param { shape { dim: 24 dim: 3 dim: 5 dim: 7 }   shape { dim: 24 } # labels"
    )
    assert changed_lines(NET, files.net.read_text()) == [
        f"- {line}",
        f"+ {line.replace('dim: 24', 'dim: 4')}",
    ]
    solver = files.solver.read_text()
    assert solver.startswith(f'net: "{files.net}"  # relative\n')
    assert "max_iter: 3\ttest_iter: 2\ttest_interval: 2\n" in solver
    parsed = prototxt.read_solver(files.solver)
    assert parsed.iter_size == 6
    assert parsed.snapshot_prefix == str(files.snapshot_prefix)
    content = json.loads(files.plan.read_text())
    assert content["working_directory"] == str(folder)
    fields = [(change["file"], change["field"]) for change in content["changes"]]
    assert fields == [
        ("net.prototxt", 'layer "data" dummy_data_param.shape[0].dim[0]'),
        ("net.prototxt", 'layer "data" dummy_data_param.shape[1].dim[0]'),
        ("solver.prototxt", "iter_size"),
        ("solver.prototxt", "net"),
        ("solver.prototxt", "snapshot_prefix"),
    ]


def test_real_caffe_runs_it(folder: Path, pycaffe: Pycaffe) -> None:
    plan, files = plan_into(folder / "job", "solver.prototxt")
    printed = pycaffe(SOLVE, str(files.solver), cwd=folder).split()
    assert [int(word) for word in printed] == [3, plan.batch_size, 10, plan.iter_size]


def test_a_solver_from_the_template(folder: Path, pycaffe: Pycaffe) -> None:
    plan, files = plan_into(folder / "job", "net.prototxt")
    printed = pycaffe(SOLVE, str(files.solver), cwd=folder).split()
    assert [int(word) for word in printed] == [3, plan.batch_size, 10, plan.iter_size]


def test_inline_nets_move_to_a_file(folder: Path, pycaffe: Pycaffe) -> None:
    inline = SOLVER.replace('net: "net.prototxt"  # relative', "net_param {\n" + NET + "}")
    (folder / "solver.prototxt").write_text(inline)
    _, files = plan_into(folder / "job", "solver.prototxt")
    assert not prototxt.read_solver(files.solver).HasField("net_param")
    assert pycaffe(SOLVE, str(files.solver), cwd=folder).split() == ["3", "4", "10", "6"]


def test_test_nets_of_their_own_are_copied(folder: Path, pycaffe: Pycaffe) -> None:
    (folder / "test.prototxt").write_text(NET)
    own = SOLVER.replace("net:", "train_net:") + 'test_net: "test.prototxt"\n'
    (folder / "solver.prototxt").write_text(own)
    _, files = plan_into(folder / "job", "solver.prototxt")
    assert files.test_net(0).read_text() == NET
    assert pycaffe(SOLVE, str(files.solver), cwd=folder).split() == ["3", "4", "10", "6"]


def test_a_shared_data_layer_keeps_the_samples_of_a_test(folder: Path) -> None:
    shared = NET.replace("include { phase: TRAIN }", "").replace(
        "include { phase: TEST }", "include { stage: 'never' }"
    )
    (folder / "net.prototxt").write_text(shared)
    plan, files = plan_into(folder / "job", "solver.prototxt")
    tested = prototxt.read_solver(files.solver).test_iter[0] * plan.batch_size
    assert tested == 2 * 24


def test_a_job_is_never_overwritten(folder: Path) -> None:
    plan_into(folder / "job", "solver.prototxt")
    before = (folder / "job" / "plan.json").read_bytes()
    with pytest.raises(InputError, match="holds a job already"):
        plan_into(folder / "job", "solver.prototxt")
    assert (folder / "job" / "plan.json").read_bytes() == before


def test_a_directory_that_cant_be_written_leaves_nothing(folder: Path) -> None:
    (folder / "blocked").write_text("a file")
    with pytest.raises(OSError, match="blocked"):
        plan_into(folder / "blocked" / "job", "solver.prototxt")
    assert sorted(os.listdir(folder)) == ["blocked", "net.prototxt", "solver.prototxt"]


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_bytes_that_arent_utf8_survive(folder: Path, ending: str) -> None:
    text = NET.replace("carefully", "soigné").replace("\n", ending)
    (folder / "net.prototxt").write_bytes(text.encode("latin-1"))
    _, files = plan_into(folder / "job", "solver.prototxt")
    after = files.net.read_bytes()
    assert after == text.replace("dim: 24", "dim: 4").encode("latin-1")


@pytest.mark.parametrize("beside", ["", 'layer { name: "c" type: "DummyData" top: "c" }'])
def test_a_net_for_train_alone_gets_no_test(folder: Path, beside: str) -> None:
    """Layers without rules are in TEST too, where nothing feeds them."""
    tested = NET.index('layer { name: "data"', NET.index("labels"))
    ip = NET.index('layer { name: "ip"')
    (folder / "net.prototxt").write_text(NET[:tested] + beside + NET[ip:])
    recipe, made = with_solver(read_recipe("net.prototxt"), Sources())
    assert recipe.tests == ()
    assert made is not None
    assert "test_iter" not in made.text
    (folder / "net.prototxt").write_text(NET)
    recipe, _ = with_solver(read_recipe("net.prototxt"), Sources())
    assert len(recipe.tests) == 1
