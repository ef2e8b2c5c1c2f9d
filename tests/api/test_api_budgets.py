"""Which memory ``auto`` and shares refer to: that of the GPU to train on, or the host's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch.memory.ledger import Part
from caffe_batch.planning.budget import HOST_RESERVE_BYTES
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.machine import free_host_bytes
from caffe_batch.runtimes.reserve import remember
from tests import fake_nvml
from tests.command import call
from tests.fake_nvml import GIB, LARGE, SMALL


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net without data of its own, and a solver for GPU 1 beside it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    fake_nvml.install(monkeypatch, SMALL, LARGE)
    (tmp_path / "net.prototxt").write_text(cb.render("lenet_digits", {"data": "dummy"}))
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 device_id: 1\n'
    )
    return tmp_path


def test_the_first_gpu_is_asked_if_none_is_named(recipe: Path) -> None:
    assert cb.plan("net.prototxt", gpu_memory="auto").budget.budget_bytes == 2 * GIB


def test_the_gpu_to_train_on_is_asked(recipe: Path) -> None:
    assert cb.plan("net.prototxt", gpu_memory="auto", gpu=1).budget.budget_bytes == 7 * GIB
    share = cb.plan("net.prototxt", gpu_memory="50%", gpu=1)
    assert share.budget.budget_bytes == 7 * GIB // 2


def test_the_solvers_device_id_is_asked(recipe: Path) -> None:
    assert cb.plan("solver.prototxt", gpu_memory="auto").budget.budget_bytes == 7 * GIB
    assert cb.plan("solver.prototxt", gpu_memory="auto", gpu=0).budget.budget_bytes == 2 * GIB


def test_the_visible_gpu_is_asked(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cb.plan("net.prototxt", gpu_memory="auto").budget.budget_bytes == 7 * GIB
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert cb.plan("solver.prototxt", gpu_memory="auto").budget.budget_bytes == 2 * GIB


def test_each_gpu_has_a_reserve_of_its_own(
    recipe: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "reserve.json"
    remember(file, machine.gpus(), 0, 300 * 2**20)
    remember(file, machine.gpus(), 1, 400 * 2**20)
    reserves = [
        cb.plan("net.prototxt", gpu_memory="1GiB", gpu=gpu).budget.reserve_bytes for gpu in (0, 1)
    ]
    assert reserves == [300 * 2**20, 400 * 2**20]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = cb.plan("net.prototxt", gpu_memory="1GiB")
    assert found.budget.reserve_bytes == 400 * 2**20


def test_in_cpu_mode_the_host_is_asked(recipe: Path) -> None:
    free = free_host_bytes()
    assert free is not None
    everything = cb.plan("net.prototxt", gpu_memory="auto", mode="cpu").budget
    half = cb.plan("net.prototxt", gpu_memory="50%", mode="cpu").budget
    assert everything.budget_bytes == pytest.approx(free, rel=0.2)
    assert half.budget_bytes == pytest.approx(free / 2, rel=0.2)
    assert everything.reserve_bytes == half.reserve_bytes > HOST_RESERVE_BYTES
    given = cb.plan("net.prototxt", gpu_memory="auto", mode="cpu", reserve="7MiB").budget
    assert given.reserve_bytes == 7 * 2**20


def test_the_reserve_of_cpu_mode_has_room_for_a_snapshot(recipe: Path) -> None:
    """The parameters' data and the history of the rule, once each; the gradients aren't copied."""
    plan = cb.plan("net.prototxt", gpu_memory="1GiB", mode="cpu")
    parts = plan.prepared.model.at().parts
    copies = parts[Part.PARAMETERS] // 2 + parts[Part.SOLVER_STATE]
    assert 0 < copies < parts[Part.PARAMETERS] + parts[Part.SOLVER_STATE]
    assert plan.budget.reserve_bytes == HOST_RESERVE_BYTES + copies
    with pytest.raises(cb.InputError, match="leaves nothing of 96 MiB"):
        cb.plan("net.prototxt", gpu_memory="96MiB", mode="cpu")


def test_measured_processes_fit_the_reserve_of_cpu_mode() -> None:
    """What benchmarks/cpu_reserve.py has measured beside Caffe's requests."""
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu_reserve.json"
    rows = json.loads(results.read_text())["trainings"]
    for name, row in rows.items():
        assert row["beside_bytes"] <= HOST_RESERVE_BYTES + row["copies_bytes"], name
    assert min(row["beside_bytes"] for row in rows.values()) > HOST_RESERVE_BYTES * 0.7


def test_a_host_that_does_not_report_its_memory(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caffe_batch.api.budgets.free_host_bytes", lambda: None)
    with pytest.raises(cb.InputError, match="free memory of this machine is unknown"):
        cb.plan("net.prototxt", gpu_memory="auto", mode="cpu")


@pytest.mark.parametrize(
    ("arguments", "gib"),
    [
        (("plan", "net.prototxt", "--gpu", 1), 7),
        (("plan", "solver.prototxt"), 7),
        (("strategies", "net.prototxt", "--gpu", 1), 7),
        (("strategies", "solver.prototxt", "--gpu", 0), 2),
    ],
)
def test_commands_ask_the_gpu_to_train_on(
    arguments: tuple[object, ...], gib: int, recipe: Path
) -> None:
    done = call(*arguments, "--gpu-memory", "auto", "--train-records", 1000, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer.get("recipe", answer)["budget_bytes"] == gib * GIB


def test_a_gpu_on_a_build_without_gpu_code_is_refused_first(recipe: Path) -> None:
    """The packaged Caffe has none: nothing is planned or written for it."""
    done = call("train", "net.prototxt", "--gpu-memory", "auto", "--gpu", 1, "--out", "job")
    assert (done.code, done.out) == (2, "")
    assert "training on GPU 1 is not possible" in done.err
    assert not (recipe / "job").exists()
