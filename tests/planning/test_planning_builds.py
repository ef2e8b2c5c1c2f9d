"""Plans for other builds, several GPUs, and budgets that rounding decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import DoesNotFitError, InputError
from caffe_batch.memory import Build, CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, make_plan

NET = """
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "none" batch_size: 12 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
AMPLE = Budget(2**33, 0)


def model(folder: Path, **build: Any) -> CaffeMemory:
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text('net: "net.prototxt" iter_size: 2')
    recipe = read_recipe(folder / "net.prototxt", folder / "solver.prototxt")
    return CaffeMemory(recipe, Sources((), {"data": (3, 7, 11)}), **build)


def test_caffe_multiplies_by_the_gpus(tmp_path: Path) -> None:
    plan = make_plan(model(tmp_path, gpus=4), AMPLE)
    assert plan.effective_batch == 12 * 2 * 4
    assert (plan.batch_size, plan.batch_size_per_gpu, plan.iter_size) == (24, 24, 1)
    assert "batch_size 24 x iter_size 1 x 4 GPUs, " in plan.summary()
    assert "batch_size 24 is for each of the 4 GPUs" in plan.notes[0]


def test_several_gpus_are_planned_with_their_buffers(tmp_path: Path) -> None:
    asked = model(tmp_path, gpus=2)
    plan = make_plan(asked, AMPLE, PlanOptions(effective_batch=48))
    assert plan.predicted_peak_bytes == asked.at(24).peak_bytes
    assert plan.rounding_bytes == asked.at(24).rounding_bytes


def test_nvcaffe_divides_by_the_gpus(tmp_path: Path) -> None:
    """Every batch_size is a multiple of the GPUs; an update has batch_size x iter_size samples."""
    asked = model(tmp_path, build=Build.NVCAFFE, gpus=4)
    plan = make_plan(asked, AMPLE)
    assert plan.effective_batch == 12 * 2
    assert (plan.batch_size, plan.batch_size_per_gpu, plan.iter_size) == (24, 6, 1)
    assert [c.batch_size for c in plan.candidates] == [24, 12, 8, 4]
    assert all(c.batch_size * c.iter_size == 24 for c in plan.candidates)
    assert plan.predicted_peak_bytes == asked.at(24).peak_bytes
    assert asked.at(24).parts == model(tmp_path, build=Build.NVCAFFE).at(6).parts
    assert "batch_size 24 (over 4 GPUs) x iter_size 1, about " in plan.summary()
    assert "batch_size is for all GPUs together." in plan.notes
    assert any("estimate" in note for note in plan.notes)


def test_nvcaffe_shares_exactly_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="24 can't be shared exactly by 5 GPUs"):
        make_plan(model(tmp_path, build=Build.NVCAFFE, gpus=5), AMPLE)


def test_cudnn_is_planned_at_the_upper_bound(tmp_path: Path) -> None:
    asked = model(tmp_path, build=Build.CUDNN)
    needed = asked.at(12).allocated_bytes
    assert make_plan(asked, Budget(needed, 0)).batch_size == 12
    plan = make_plan(asked, Budget(needed - 1, 0))
    assert plan.batch_size == 8
    assert plan.uncertain_bytes == 24 * 2**20
    assert " at most " in plan.summary()
    assert any("cuDNN's workspaces" in note for note in plan.notes)
    written = plan.json()
    assert (written["engine"], written["build"]) == ("caffe", "cudnn")
    assert written["predicted_peak_lower_bytes"] == plan.predicted_peak_bytes - 24 * 2**20


def test_rounding_counts_for_what_fits(tmp_path: Path) -> None:
    asked = model(tmp_path)
    exact = asked.at(12)
    assert exact.rounding_bytes > 0
    plan = make_plan(asked, Budget(exact.allocated_bytes - 1, 0))
    assert plan.batch_size == 8
    assert [c.fits for c in plan.candidates if c.batch_size == 12] == [False]
    assert any("cudaMalloc rounds" in note for note in plan.notes)
    roomy = make_plan(asked, Budget(exact.allocated_bytes, 0))
    assert roomy.predicted_peak_bytes == exact.peak_bytes
    assert roomy.notes == ()


def test_rounding_counts_for_what_is_missing(tmp_path: Path) -> None:
    asked = model(tmp_path)
    needed = asked.at(1).allocated_bytes
    with pytest.raises(DoesNotFitError, match="batch_size 1 needs") as refused:
        make_plan(asked, Budget(needed - 1, 0))
    assert refused.value.missing_bytes == 1
