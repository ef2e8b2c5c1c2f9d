"""The memory model of the PyTorch engine: what it counts, what it calculates, what it keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.engines.torch.engine import ENGINE
from caffe_batch.engines.torch.memory.counts import Run
from caffe_batch.engines.torch.memory.model import WORKSPACES, TorchMemory
from caffe_batch.engines.torch.worker import memory as worker
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.errors import InputError
from caffe_batch.memory import CaffeMemory, Part
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, make_plan
from tests.engines.torch.memory.counts import SOLVER
from tests.engines.torch.memory.test_torch_counts import CONVOLUTIONAL, SHAPES


class Here:
    """Counts in the process of the tests; what it has counted is in ``runs``."""

    version = "2"

    def __init__(self, folder: Path, problem: str = "") -> None:
        self.folder, self.problem = folder, problem
        self.known: dict[str, Any] = {}
        self.runs: list[Run] = []
        self.ran = ""  # the version that counts, if it is another one
        self.refused: set[int] = set()

    def __call__(self, settings: Mapping[str, Any], runs: Sequence[Any]) -> list[Any]:
        if self.problem:
            raise InputError(self.problem)
        self.runs += runs
        result = self.folder / "result"
        result.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            wanted = {
                **settings,
                "runs": [r._asdict() for r in runs],
                "processes": None,
                "result": str(result),
            }
            assert worker.main(wanted, Events(descriptor), Requests()) == 0
        finally:
            os.close(descriptor)
        found = [json.loads((result / f"{n}.json").read_text()) for n in range(len(runs))]
        for run, value in zip(runs, found, strict=True):
            value["torch"] = self.ran or self.version
            if run.sizes[0] in self.refused:
                del value["trace"]
                value["problem"] = "too large for this machine"
        return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    data, rest = CONVOLUTIONAL.split('layer { name: "c"')
    train, test = (
        data.replace("top:", f"include {{ phase: {phase} }} top:", 1) for phase in ("TRAIN", "TEST")
    )
    (tmp_path / "net.prototxt").write_text(f'{train}{test}layer {{ name: "c"{rest}')
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "net.prototxt" {SOLVER} test_iter: 3 test_interval: 4\n')
    return solver


def model_of(files: Path, count: Here | None, mode: Any = "gpu") -> TorchMemory:
    sources = Sources((files.parent,), SHAPES)
    return ENGINE.memory_model(read_recipe(files), sources, mode, count=count)


def test_sizes_between_counted_ones_are_what_would_be_counted(files: Path, tmp_path: Path) -> None:
    once = Here(tmp_path / "once")
    sizes = [1, 2, 3, 5, 8, 13, 21]
    found = model_of(files, once).peaks(sizes)
    assert len(once.runs) == 4
    for size in (1, 5, 21):
        alone = Here(tmp_path / f"alone{size}")
        assert model_of(files, alone).peaks([size]) == {size: found[size]}
        assert len(alone.runs) == 1


def test_a_split_with_another_test_batch_is_what_would_be_counted(
    files: Path, tmp_path: Path
) -> None:
    once = Here(tmp_path / "once")
    model = model_of(files, once)
    model.with_test_batches((1,)).peaks([1, 2, 3, 5, 8, 13, 21])
    recipe = read_recipe(files)
    recipe.solver.iter_size = 2
    counted = len(once.runs)
    for train, test in ((1, 1), (8, 1), (13, 2), (5, 6)):
        alone = Here(tmp_path / f"alone{train}{test}")
        one, other = (
            model_of(files, each).with_recipe(recipe).with_test_batches((test,)).at(train)
            for each in (once, alone)
        )
        assert one == other
        assert alone.runs == [Run((train, test), 2)]
    assert len(once.runs) == counted  # nothing was counted again


def test_what_was_counted_is_kept(files: Path, tmp_path: Path) -> None:
    first = model_of(files, Here(tmp_path / "kept"))
    found = first.peaks([2, 4, 8, 16]), first.at(8)
    again = Here(tmp_path / "kept", "it was kept")
    second = model_of(files, again)
    assert (second.peaks([2, 4, 8, 16]), second.at(8)) == found
    assert second.remarks == ()
    newer = Here(tmp_path / "kept")
    newer.version = "3"
    model_of(files, newer).at(8)
    assert newer.runs == [Run((8, 7), 1)], "another PyTorch is counted anew"


def test_figures_are_kept_for_the_version_that_has_counted(files: Path, tmp_path: Path) -> None:
    first = Here(tmp_path / "kept")
    first.ran = "3"
    found = model_of(files, first).at(8)
    same, other = Here(tmp_path / "kept"), Here(tmp_path / "kept", "it was kept")
    other.version = "3"
    assert model_of(files, other).at(8) == found
    model_of(files, same).at(8)
    assert same.runs == first.runs, "nothing is known of the version that hasn't counted"


def test_a_count_that_fails_is_made_up_for_alone(files: Path, tmp_path: Path) -> None:
    count = Here(tmp_path / "kept")
    count.refused = {21}
    model, caffe = model_of(files, count), model_of(files, None)
    whole = model_of(files, Here(tmp_path / "whole"))
    found = model.peaks([2, 8, 21])
    assert found == {**whole.peaks([2, 8]), 21: caffe.peaks([21])[21]}
    assert model.at(21) == caffe.at(21)
    assert model.at(8) == whole.at(8)
    (remark,) = model.remarks
    assert remark.startswith("At batch_size 21 the memory is what Caffe would take")
    assert "too large for this machine" in remark
    counted = len(count.runs)
    assert model.peaks([2, 8, 21]) == found
    assert len(count.runs) == counted, "what can't be counted isn't tried again"


def test_rates_and_lengths_change_nothing(files: Path, tmp_path: Path) -> None:
    model_of(files, Here(tmp_path / "kept")).at(8)
    text = files.read_text().replace("base_lr: 0.1", "base_lr: 0.7 gamma: 0.3")
    files.write_text(text.replace("test_interval: 4", "test_interval: 9"))
    assert model_of(files, Here(tmp_path / "kept", "it was kept")).at(8).engine == "pytorch"


def test_a_damaged_file_is_counted_again(files: Path, tmp_path: Path) -> None:
    before = model_of(files, Here(tmp_path / "kept")).at(8)
    (kept,) = (tmp_path / "kept").glob("*.json")
    (run, passes, peak), *_ = json.loads(kept.read_text())["peaks"]
    figure = [run, passes, {"bytes": [1, 1, 1, 1], "layers": [["a", "b", "c", []]]}]
    for damage in (
        "", "{", '{"figures": [[1]], "peaks": 2}', "[]", "[" * 100_000,
        json.dumps({"figures": [], "peaks": [[run, passes, -peak]]}),
        json.dumps({"figures": [figure], "peaks": []}),
        json.dumps({"figures": [], "peaks": [[run, passes, 7]]}).replace("7", "1e999"),
    ):  # fmt: skip
        kept.write_text(damage)
        count = Here(tmp_path / "kept")
        assert model_of(files, count).at(8) == before
        assert len(count.runs) == 1


def test_the_rows_add_up_to_the_peak(files: Path, tmp_path: Path) -> None:
    for mode in ("gpu", "cpu"):
        found = model_of(files, Here(tmp_path / mode), mode).at(8)
        assert sum(found.parts.values()) == found.peak_bytes
        assert sum(row.bytes for row in found.layers) == found.peak_bytes
        assert all(sum(row.parts.values()) == row.bytes for row in found.layers)
        weights = 4 * (5 * 3 * 9 + 5 + 2 * 5 + 1 + 2 * 5 + 3 * 5 * 5 * 5 + 3)
        assert found.parts[Part.PARAMETERS] == found.parts[Part.SOLVER_STATE] == weights
        assert (found.rounding_bytes > 0) == (mode == "gpu")
        beside = found.layers[-1]
        assert beside.name == WORKSPACES
        segments = found.allocated_bytes - beside.bytes
        assert segments % (2 * 2**20) == 0 or mode == "cpu"


@pytest.mark.parametrize("why", ["", "a layer can't be counted"])
def test_caffes_figures_stand_in(files: Path, tmp_path: Path, why: str) -> None:
    model = model_of(files, Here(tmp_path, why) if why else None)
    caffe = CaffeMemory(read_recipe(files), Sources((files.parent,), SHAPES))
    assert model.peaks([2, 4]) == caffe.peaks([2, 4])
    assert model.at(4) == caffe.at(4)
    (remark,) = model.remarks
    assert "what Caffe would take" in remark
    assert why in remark


def test_a_plan_uses_it(files: Path, tmp_path: Path) -> None:
    model = model_of(files, Here(tmp_path / "kept"))
    needed = model.at(4)
    plan = make_plan(
        model, Budget(needed.allocated_bytes + 2**20, 0), PlanOptions(effective_batch=1024)
    )
    assert not any("Caffe would take" in remark for remark in plan.remarks)
    assert plan.engine == "pytorch"
    assert plan.predicted_peak_bytes + plan.rounding_bytes <= plan.budget.usable_bytes
    larger = model.at(2 * plan.batch_size).allocated_bytes
    assert larger > plan.budget.usable_bytes
