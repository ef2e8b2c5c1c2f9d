"""Builds of Caffe: with cuDNN, on several GPUs, NVIDIA's fork."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import InputError, NetError
from caffe_batch.memory import Build, CaffeMemory, Part, Prediction, predict
from caffe_batch.net import Sources, read_recipe

FILE = Path(__file__).parent.parent / "data" / "engine_memory.json"
CASES = json.loads(FILE.read_text())["cases"]
#: Column of the measurements -> build, GPUs, whether it is the lower bound.
COLUMNS = {
    "caffe": (Build.CAFFE, 1, False),
    "caffe_2_gpus": (Build.CAFFE, 2, False),
    "cudnn_lower": (Build.CUDNN, 1, True),
    "cudnn_upper": (Build.CUDNN, 1, False),
    "cudnn_upper_2_gpus": (Build.CUDNN, 2, False),
}
REFUSALS = (
    "built without cuDNN|doesn't dilate with cuDNN|needs 2 spatial axes|at most 4 axes"
    "|no stochastic pooling with cuDNN"
)

DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "none" batch_size: 10 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "none" batch_size: 7 } }
"""
LITERAL = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 10 dim: 3 dim: 7 dim: 11 } shape { dim: 10 } } }
"""
LAYERS = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 group: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" test_iter: 1 test_interval: 5'


def model(folder: Path, net: str, solver: str = SOLVER, **build: Any) -> CaffeMemory:
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(solver)
    recipe = read_recipe(folder / "net.prototxt", folder / "solver.prototxt")
    reads = any(layer.type == "Data" for layer in recipe.train.message.layer)
    return CaffeMemory(recipe, Sources((), {"data": (3, 7, 11)} if reads else None), **build)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_as_measured(case: dict[str, Any], column: str, tmp_path: Path) -> None:
    """Most bytes while building and until two updates are done, and what rounding adds."""
    build, gpus, lower = COLUMNS[column]
    asked = model(tmp_path, case["net"], case["solver"], build=build, gpus=gpus)
    if case[column] is None:
        with pytest.raises(NetError, match=REFUSALS) as refused:
            asked.at()
        assert refused.value.layer is not None
        return
    found = asked.at()
    spared = found.uncertain_bytes if lower else 0
    assert [
        found.after_build_bytes - spared,
        found.after_two_updates_bytes - spared,
        found.rounding_bytes,
    ] == case[column]


def test_the_table_sums_to_the_upper_bound(tmp_path: Path) -> None:
    found = model(tmp_path, DATA + LAYERS, build=Build.CUDNN).at()
    assert sum(found.parts.values()) == sum(row.bytes for row in found.layers) == found.peak_bytes
    # Both nets have a convolution of 3 groups, and each group 3 workspaces of 8 MiB.
    assert found.uncertain_bytes == 2 * 3 * 3 * 8 * 2**20
    assert found.lower_peak_bytes == found.peak_bytes - found.uncertain_bytes


def test_without_cudnn_nothing_is_uncertain(tmp_path: Path) -> None:
    found = model(tmp_path, DATA + LAYERS).at()
    assert found.build is Build.CAFFE
    assert found.lower_peak_bytes == found.peak_bytes
    assert found.allocated_bytes == found.peak_bytes + found.rounding_bytes


def test_cpu_mode_rounds_nothing(tmp_path: Path) -> None:
    assert model(tmp_path, DATA + LAYERS, mode="cpu").at().rounding_bytes == 0


def test_several_gpus_leave_the_batch_to_each(tmp_path: Path) -> None:
    net = model(tmp_path, DATA + LAYERS, gpus=4).train_net()
    assert net.blob_shapes["data"] == (10, 3, 7, 11)


@pytest.mark.parametrize(("gpus", "train", "test"), [(1, 10, 7), (2, 5, 4), (4, 3, 2)])
def test_nvcaffe_divides_what_data_layers_read(
    gpus: int, train: int, test: int, tmp_path: Path
) -> None:
    """Rounding up, in both phases."""
    asked = model(tmp_path, DATA + LAYERS, build=Build.NVCAFFE, gpus=gpus)
    assert asked.divides_batch
    assert asked.train_net().blob_shapes["data"][0] == train
    assert asked.test_nets()[0].blob_shapes["data"][0] == test
    assert asked.train_net(12).blob_shapes["data"][0] == 12 // gpus


def test_nvcaffe_leaves_literal_shapes(tmp_path: Path) -> None:
    asked = model(tmp_path, LITERAL + LAYERS, "base_lr: 1", build=Build.NVCAFFE, gpus=2)
    assert not asked.divides_batch
    assert asked.train_net().blob_shapes["data"][0] == 10


def nvcaffe(folder: Path, *, half: bool) -> Prediction:
    return model(folder, DATA + LAYERS, build=Build.NVCAFFE, half=half).at()


def test_nvcaffe_has_bounds_and_no_workspace(tmp_path: Path) -> None:
    found = nvcaffe(tmp_path, half=False)
    cudnn = model(tmp_path, DATA + LAYERS, build=Build.CUDNN).at()
    assert 0 < found.lower_peak_bytes < found.peak_bytes < cudnn.peak_bytes
    # The parameters, their gradients and the solver's state are there whatever else it does.
    floats = sum(found.parts[part] for part in (Part.PARAMETERS, Part.SOLVER_STATE))
    assert found.lower_peak_bytes > floats
    # 13 batches are read ahead at most: 3 x 7 x 11 numbers and a label each.
    assert found.parts[Part.DATA_PREFETCH] == 13 * 10 * (3 * 7 * 11 + 1) * 4


def test_half_precision(tmp_path: Path) -> None:
    """Activations take half; the weights get a copy of half their size."""
    single, half = nvcaffe(tmp_path, half=False), nvcaffe(tmp_path, half=True)
    assert half.parts[Part.ACTIVATIONS] * 2 == single.parts[Part.ACTIVATIONS]
    parameters = (6 * 1 * 3 * 3 + 6) + (5 * 6 * 5 * 9 + 5)
    assert half.parts[Part.PARAMETERS] - single.parts[Part.PARAMETERS] == 2 * parameters
    assert half.parts[Part.SOLVER_STATE] == single.parts[Part.SOLVER_STATE]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"mode": "cpu", "build": Build.CUDNN}, "build cudnn is for GPUs"),
        ({"mode": "cpu", "build": Build.NVCAFFE}, "build nvcaffe is for GPUs"),
        ({"mode": "cpu", "gpus": 2}, "2 GPUs in CPU mode"),
        ({"half": True}, "Caffe 1.0 has no half precision"),
        ({"half": True, "build": Build.CUDNN}, "Caffe 1.0 has no half precision"),
    ],
)
def test_builds_that_dont_exist(build: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        model(tmp_path, DATA + LAYERS, **build)


def test_the_library_door(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(LITERAL + LAYERS)
    found = predict(tmp_path / "net.prototxt", batch_size=4, build=Build.CUDNN, gpus=2)
    assert found.build is Build.CUDNN
    assert found.uncertain_bytes == 3 * 3 * 8 * 2**20
