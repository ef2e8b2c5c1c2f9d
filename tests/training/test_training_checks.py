"""Nets that nothing feeds, or whose layers the runtime lacks, aren't trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch import engines, runtimes
from caffe_batch.device import Device
from caffe_batch.engines.base import RuntimeInfo
from caffe_batch.errors import InputError, in_shell
from caffe_batch.net import read_recipe
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training import checks
from caffe_batch.training.checks import check_is_fed, check_layer_types
from tests.command import call

INPUT = """
layer { name: "fed" type: "Input" top: "data" top: "label" include { phase: %s }
  input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
"""
MEMORY = """
layer { name: "fed" type: "MemoryData" top: "data" top: "label" include { phase: %s }
  memory_data_param { batch_size: 4 channels: 3 height: 1 width: 1 } }
"""
MADE = """
layer { name: "made" type: "DummyData" top: "data" top: "label" include { phase: %s }
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
"""
REST = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = (
    'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 test_iter: 1 test_interval: 2'
)
SOLVE = """
import caffe
solver = caffe.get_solver("solver.prototxt")
solver.step(1)
print(float(abs(solver.net.blobs["data"].data).max()))
"""


def write(folder: Path, train: str, test: str) -> Path:
    (folder / "net.prototxt").write_text(train % "TRAIN" + test % "TEST" + REST)
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder / "solver.prototxt"


@pytest.mark.parametrize(
    ("train", "test", "phase"),
    [
        (INPUT, MADE, "TRAIN"),
        (MEMORY, MADE, "TRAIN"),
        (MADE, INPUT, "TEST"),
        (MADE, MEMORY, "TEST"),
    ],
)
def test_a_net_that_nothing_feeds(
    tmp_path: Path, train: str, test: str, phase: str, pycaffe: Callable[..., str]
) -> None:
    recipe = read_recipe(write(tmp_path, train, test))
    with pytest.raises(InputError, match=f"layer 'fed' of type .* in the {phase} net waits"):
        check_is_fed(recipe)
    if MEMORY in (train, test):
        with pytest.raises(RuntimeError, match="needs to be initialized by calling Reset"):
            pycaffe(SOLVE, cwd=tmp_path)
    elif train == INPUT:
        assert float(pycaffe(SOLVE, cwd=tmp_path)) == 0


def test_a_net_that_makes_its_data_is_trained(tmp_path: Path) -> None:
    check_is_fed(read_recipe(write(tmp_path, MADE, MADE)))


FORK = """
layer { name: "cut" type: "ReLU6" bottom: "data" top: "cut" }
layer { name: "swish" type: "Mish" bottom: "cut" top: "swish" include { phase: TEST } }
layer { name: "again" type: "ReLU6" bottom: "cut" top: "again" }
"""


def test_layer_types_that_the_runtime_lacks(tmp_path: Path, runtime: Runtime) -> None:
    """Those of a fork, in every net; real Caffe knows none of them."""
    recipe = read_recipe(write(tmp_path, MADE, MADE))
    engine = engines.find()
    check_layer_types((recipe.train, *recipe.tests), engine, runtime)
    (tmp_path / "net.prototxt").write_text(MADE % "TRAIN" + MADE % "TEST" + FORK + REST)
    recipe = read_recipe(tmp_path / "solver.prototxt")
    with pytest.raises(InputError) as caught:
        check_layer_types((recipe.train, *recipe.tests), engine, runtime)
    assert caught.value.message == (
        f"Caffe in the runtime {runtime.name} doesn't have these layer types: "
        "ReLU6 (layers 'cut', 'again'); Mish (layer 'swish')"
    )
    assert "--runtime" in in_shell(caught.value.hint_parts or "")
    with pytest.raises(InputError, match=r"doesn't have this layer type: ReLU6 \(layers"):
        check_layer_types([recipe.train], engine, runtime)


def test_no_pytorch_has_the_layers_of_forks() -> None:
    """Another Python for it doesn't help: only a Caffe does."""
    assert "--engine caffe and --runtime" in in_shell(engines.find("pytorch").types_hint)


def test_layer_types_that_an_engine_has_nowhere(tmp_path: Path) -> None:
    """Planning for PyTorch refuses them before anything is written, and needs no torch for it."""
    turned = 'layer { name: "turn" type: "RReLU" bottom: "data" top: "turned" }'
    solver = write(tmp_path, MADE, MADE)
    text = MADE % "TRAIN" + MADE % "TEST" + turned + REST
    (tmp_path / "net.prototxt").write_text(text)
    message = r"PyTorch doesn't have this layer type: RReLU \(layer 'turn'\)"
    for refused in (
        lambda: cb.plan(solver, gpu_memory="1GiB", engine="pytorch"),
        lambda: cb.strategies(solver, gpu_memory="1GiB", engine="pytorch"),
        lambda: cb.as_is(solver, engine="pytorch"),
    ):
        with pytest.raises(InputError, match=message):
            refused()
    out = tmp_path / "job"
    done = call("plan", solver, "--gpu-memory", "1GiB", "--engine", "pytorch", "--out", out)
    assert (done.code, out.exists()) == (2, False)
    assert "--engine caffe and --runtime" in done.err
    assert cb.plan(solver, gpu_memory="1GiB").engine == "caffe"
    write(tmp_path, MADE, MADE)
    assert cb.plan(solver, gpu_memory="1GiB", engine="pytorch").engine == "pytorch"


def test_a_build_without_a_usual_type(tmp_path: Path, program: Callable[[str, str], Path]) -> None:
    """As one without OpenCV, which has no ImageData: a runtime that was named has been asked."""
    python = program(
        "python",
        """echo '{"python_version": "3.8.1", "caffe_version": "1.0.0", "caffe_path": "x","""
        """ "nccl": true, "numpy_version": "1", "import_s": 1, "gpu_message": null,"""
        """ "layer_types": ["DummyData", "InnerProduct"]}'""",
    )
    recipe = read_recipe(write(tmp_path, MADE, MADE))
    found = runtimes.find(str(python))
    with pytest.raises(InputError, match=r"this layer type: SoftmaxWithLoss \(layer 'loss'\)"):
        check_layer_types([recipe.train], engines.find(), found)


@pytest.mark.parametrize(("first", "gpus"), [(0, 3), (1, 2)])
def test_more_gpus_than_there_are(first: int, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    two = RuntimeInfo(
        "2.4", "", "3.10", "2", gpu=True, gpu_problem=None, nccl=True, layer_types=(),
        import_s=1.0, devices=("GPU 0: A", "GPU 1: B"),
    )  # fmt: skip
    monkeypatch.setattr(checks, "inspect", lambda runtime, engine: two)
    here, pytorch = Interpreter(sys.executable), engines.find("pytorch")
    with pytest.raises(InputError, match=rf"for {gpus} GPUs, and PyTorch sees {2 - first} from"):
        checks.check_gpu(Device(first), here, pytorch, gpus)
    checks.check_gpu(Device(first), here, pytorch, 2 - first)
    checks.check_gpu(Device.CPU, here, pytorch, gpus)
