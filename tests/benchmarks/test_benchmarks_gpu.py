"""The script for a real GPU, as far as it goes without one: on real Caffe, in CPU mode."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import layers, parts
from benchmarks.gpu.device import Seen
from benchmarks.gpu.layers import Case
from benchmarks.gpu.measure import measure, obstacle
from benchmarks.gpu.parts import PARTS, Setting
from caffe_batch.memory import Model
from caffe_batch.net import Sources, read_recipe
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.runtimes.machine import Gpu, Gpus
from tools.count_gpu_memory.nets import own_nets

RUN = Path(parts.__file__).with_name("run.sh")

Arrays = dict[str, dict[str, "np.ndarray[Any, Any]"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[Case]:
    (folder / "nets").mkdir()
    return layers.cases(folder / "nets")


@pytest.fixture(scope="module")
def found(cases: list[Case], runtime: Runtime, folder: Path) -> Arrays:
    return layers.run(cases, runtime, folder / "cpu", "cpu")


def test_every_layer_type_has_a_case_or_a_reason(cases: list[Case], runtime: Runtime) -> None:
    assert layers.uncovered(cases, inspect(runtime).layer_types) == []
    assert layers.uncovered(cases, ["ReLU", "Brandnew"]) == ["Brandnew"]
    excused = set(layers.NOT_COMPARED) & set().union(*(case.types for case in cases))
    assert excused == set()


def test_every_case_runs_and_is_itself(cases: list[Case], found: Arrays) -> None:
    assert found.keys() == {case.name for case in cases}
    rows = layers.compare(cases, found, found)
    assert [row for row in rows if row["largest_error"] != 0 or not row["same"]] == []


def test_every_case_has_values_and_gradients(cases: list[Case], found: Arrays) -> None:
    """Nothing is compared that is zero everywhere, and nothing is not a number."""
    for case in cases:
        arrays = found[case.name]
        assert all(np.isfinite(array).all() for array in arrays.values()), case.name
        gradients = [array for name, array in arrays.items() if not name.startswith("blob/")]
        assert any(array.any() for array in gradients), case.name
        assert any(array.any() for name, array in arrays.items() if name.startswith("blob/"))


def test_another_setting_is_caught(
    cases: list[Case], found: Arrays, runtime: Runtime, folder: Path
) -> None:
    """What a wrong kernel would look like: a layer that computes something a little different."""
    wrong = {
        "relu": ("type: \"ReLU\"", "type: \"ReLU\" relu_param { negative_slope: 0.001 }"),
        "lrn": ("type: \"LRN\"", "type: \"LRN\" lrn_param { beta: 0.751 alpha: 1.01 }"),
        "pool_ave": ("pool: AVE", "pool: MAX"),
    }  # fmt: skip
    changed = []
    for case in cases:
        if case.name in wrong:
            before, after = wrong[case.name]
            text = case.net.replace(before, after)
            assert text != case.net
            changed.append(replace(case, net=text))
    others = layers.run(changed, runtime, folder / "wrong", "cpu")
    rows = layers.compare(changed, found, others)
    assert [row["same"] for row in rows] == [False, False, False]


def test_errors() -> None:
    expected = {"blob/a": np.array([3.0, 4.0]), "blob/zero": np.zeros(2)}
    near = {"blob/a": np.array([3.0, 4.0005]), "blob/zero": np.array([1e-9, 0])}
    found = layers.errors(expected, near)
    assert found["blob/a"] == pytest.approx(1e-4)
    assert found["blob/zero"] < 1e-5  # rounding
    nan = {"blob/a": np.array([3.0, np.nan]), "blob/zero": np.zeros(3)}
    assert layers.errors(expected, nan) == {"blob/a": np.inf, "blob/zero": np.inf}
    assert layers.errors(nan, nan) == {"blob/a": 0.0, "blob/zero": 0.0}


def test_a_case_that_one_side_aborts(cases: list[Case], found: Arrays) -> None:
    (row,) = layers.compare(cases[:1], found, {})
    assert (row["same"], row["aborted_on"]) == (False, ["gpu"])


def test_speed_on_the_cpu(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "TURNS", 2)
    setting = Setting(runtime, gpu=None, quick=True)
    speed = parts.measure_speed(setting, tmp_path, name="cifar10", effective=8, least=2)
    assert [(row["batch_size"], row["iter_size"]) for row in speed["cases"]] == [
        (8, 1), (4, 2), (2, 4)
    ]  # fmt: skip
    assert speed["held"]
    assert speed["cases"][0]["relative"] == 1
    assert all(row["update_s"] > 0 for row in speed["cases"])


@pytest.mark.slow
def test_demo_on_the_cpu(runtime: Runtime, tmp_path: Path) -> None:
    demo = parts.train_demo(Setting(runtime, gpu=None), tmp_path)
    assert (demo["held"], demo["device"]) == (True, "CPU")


def test_memory_jobs_are_enough() -> None:
    jobs = parts.memory_jobs(Setting(runtime=None))  # type: ignore[arg-type]
    assert len(jobs) >= 6
    assert sum(len(job.batch_sizes) for job in jobs) >= 2 * len(jobs) - 1


class SmallGpu(Setting):
    """A GPU whose free memory is the budget of ``fit``: beside Caffe's requests it takes FIXED."""

    FIXED, ROUND = 200 * 2**20, 30 * 2**20

    def watch(self, solver: Path | None, directory: Path, turns: Sequence[int]) -> Seen:
        if solver is None:
            return Seen((), self.FIXED - self.ROUND)
        prediction = Model(read_recipe(solver), Sources((directory,))).at()
        needs = self.FIXED + prediction.allocated_bytes
        if needs > parts.FIT_BUDGET:
            return Seen(None, 0, "Check failed: error == cudaSuccess (2 vs. 0)  out of memory")
        return Seen((0.1,) * len(turns), needs)


@contextmanager
def nobody_else(runtime: Runtime, gpu: int, free_bytes: int) -> Iterator[int]:
    yield free_bytes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SmallGpu:
    monkeypatch.setattr(parts, "only_free", nobody_else)
    monkeypatch.setattr(parts, "FIT_NET", "resnet50")
    monkeypatch.setattr(parts, "FIT_BATCH", 32)
    nets = [net for net in own_nets() if net.name in ("digits", "resnet50")]
    monkeypatch.setattr(parts, "own_nets", lambda: iter(nets))
    return SmallGpu(runtime=None)  # type: ignore[arg-type]


def test_fit(small: SmallGpu, tmp_path: Path) -> None:
    """The arithmetic of the real thing: with the measured reserve it is exact, else explained."""
    fit = parts.check_fit(small, tmp_path)
    assert fit["fixed_bytes"] == {
        "context": small.FIXED - small.ROUND, "with_data": small.FIXED
    }  # fmt: skip
    exact, generous = fit["cases"]
    assert (exact["reserve_bytes"], generous["reserve_bytes"]) == (small.FIXED, 512 * 2**20)
    assert exact["planned_runs"]
    assert exact["next_larger"][0] > exact["planned"][0]
    assert not exact["next_larger_runs"]
    assert fit["held"]


def test_memory(small: SmallGpu, tmp_path: Path) -> None:
    memory = parts.measure_memory(small, tmp_path)
    assert {row["net"] for row in memory["cases"]} == {"digits", "resnet50"}
    assert [row["beside_fixed_and_predicted"] for row in memory["cases"] if row["ran"]] == (
        [0] * sum(row["ran"] for row in memory["cases"])
    )


def test_what_a_fit_says() -> None:
    ran = Seen((0.1,), 100)
    full = Seen(None, 100, "Check failed: error == cudaSuccess (2 vs. 0)  out of memory")
    broken = Seen(None, 100, "Check failed: something else")
    assert parts.judge_fit(ran, full, 50, 60) == {
        "planned_runs": True, "held": True, "next_larger_runs": False
    }  # fmt: skip
    assert "takes 60 bytes" in parts.judge_fit(ran, ran, 50, 60)["margin"]
    assert parts.judge_fit(ran, ran, 50, 60)["held"]
    assert not parts.judge_fit(full, None, 50, 60)["held"]
    assert not parts.judge_fit(ran, broken, 50, 60)["held"]


def test_a_part_that_fails_doesnt_stop_the_others(
    runtime: Runtime, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def bad(setting: Setting, folder: Path) -> dict[str, Any]:
        raise RuntimeError("the GPU fell off the bus")

    def good(setting: Setting, folder: Path) -> dict[str, Any]:
        return {"held": True}

    where = {"gpu": "some GPU"}
    setting = Setting(runtime)
    assert not measure(["a", "b"], {"a": bad, "b": good}, setting, where, tmp_path)
    assert "fell off the bus" in capfd.readouterr().err
    assert json.loads((tmp_path / "gpu_b.json").read_text()) == {
        "held": True, "environment": where
    }  # fmt: skip
    assert not (tmp_path / "gpu_a.json").exists()
    assert measure(["b"], {"b": good}, setting, where, tmp_path)


def test_what_is_missing_is_said() -> None:
    with_code = SimpleNamespace(gpu=True, gpu_problem=None, caffe_path="caffe")
    one = Gpus("NVML", "550", (Gpu("some GPU", 8, 8),))
    assert obstacle(with_code, one, 0) is None
    assert "no GPU 1" in str(obstacle(with_code, one, 1))
    assert "no GPU is seen" in str(obstacle(with_code, Gpus(problem="no driver"), 0))
    assert "no GPU code" in str(obstacle(SimpleNamespace(gpu=False, caffe_path="c"), one, 0))
    broken = SimpleNamespace(gpu=True, gpu_problem="no kernel image", caffe_path="c")
    assert "no kernel image" in str(obstacle(broken, one, 0))


def test_the_script_itself(runtime: Runtime, tmp_path: Path) -> None:
    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", RUN, *options], capture_output=True, text=True, cwd=tmp_path, env=os.environ
        )

    dry = call("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert all(f"{name}: " in dry.stdout for name in PARTS)
    assert "  conv: Convolution, DummyData, " in dry.stdout
    real = call("--only", "layers", "--out", str(tmp_path / "results"))
    assert real.returncode == 2
    assert "has no GPU code: give --runtime, or use the image" in real.stderr
    assert not (tmp_path / "results").exists()
