"""The noise scale on real Caffe, against a closed form and against gradients computed by hand."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.device import Device
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.errors import InputError
from caffe_batch.experiments.noise import AT_FILLERS, NoiseOptions, measure_noise
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from tests.experiments.regression import WEIGHT, write_regression

MICRO_GRADIENTS = INSIDE / "micro_gradients.py"

#: Micro-batches by hand: each with diffs of its own, only the parameters named, in double.
BY_HAND = """
import json, sys, caffe
import numpy as np
sys.path.insert(0, sys.argv[1])
from micro_gradients import MicroGradients
open("net.prototxt", "w").write(sys.argv[2])
counted, frozen = json.loads(sys.argv[3]), json.loads(sys.argv[4])
caffe.set_random_seed(3)
net = caffe.Net("net.prototxt", caffe.TRAIN)
called = []
net.after_backward(called.append)
gradients = []
for _ in range(4):
    net.clear_param_diffs()
    net.forward()
    net.backward()
    gradients.append(np.concatenate(
        [net.params[name][i].diff.ravel().astype(np.float64) for name, i in counted]
    ))
left_out = [float(abs(net.params[name][i].diff).sum()) for name, i in frozen]
mean = sum(gradients) / 4
caffe.set_random_seed(3)
net = caffe.Net("net.prototxt", caffe.TRAIN)
ours = MicroGradients(net, frozen)
net.clear_param_diffs()
ours.begin()
for _ in range(4):
    net.forward()
    net.backward()
    ours.add()
print(json.dumps({
    "ours": ours.norms(),
    "micro": sum(float(g @ g) for g in gradients) / 4,
    "mean": float(mean @ mean),
    "left_out": left_out,
    "called": called[:len(net.layers)],
}))
"""

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "aim" dummy_data_param {
  shape { dim: 5 dim: 3 } shape { dim: 5 dim: 3 } data_filler { type: "gaussian" } } }
"""
LOSS = 'layer { name: "far" type: "EuclideanLoss" bottom: "out" bottom: "aim" }'


def dense(name: str, bottom: str, top: str, params: str = "") -> str:
    filler = 'weight_filler { type: "gaussian" std: 0.5 }'
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {params} '
        f"inner_product_param {{ num_output: 3 {filler} }} }}\n"
    )


SHARED = (
    DATA
    + dense("first", "data", "a", 'param { name: "w" } param { name: "b" }')
    + dense("again", "a", "b", 'param { name: "w" } param { lr_mult: 2 }')
    + dense("last", "b", "out", 'param { lr_mult: 3 } param { name: "b" }')
    + LOSS
)
FROZEN = (
    DATA
    + dense("still", "data", "a", "param { lr_mult: 0 } param { lr_mult: 0 }")
    + dense("moving", "a", "out")
    + LOSS
)
# The inner net of a recurrent layer makes all its gradients, also those that nobody wants.
RECURRENT = """
layer { name: "data" type: "DummyData" top: "data" top: "cont" top: "aim" dummy_data_param {
  shape { dim: 4 dim: 5 dim: 3 } shape { dim: 4 dim: 5 } shape { dim: 4 dim: 5 dim: 3 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 }
  data_filler { type: "gaussian" } } }
layer { name: "before" type: "InnerProduct" bottom: "data" top: "x"
  inner_product_param { num_output: 3 axis: 2 weight_filler { type: "gaussian" } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
  param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }
  recurrent_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "h" top: "out"
  inner_product_param { num_output: 3 axis: 2 weight_filler { type: "gaussian" } } }
layer { name: "far" type: "EuclideanLoss" bottom: "out" bottom: "aim" }
"""


def model(net: Path, solver: Path | None = None) -> CaffeMemory:
    recipe = read_recipe(net, solver)
    return CaffeMemory(recipe, Sources(recipe.directories), "cpu")


def test_the_closed_form_of_linear_regression(runtime: Runtime, tmp_path: Path) -> None:
    """Within 5 %, which is seven standard errors of the estimate."""
    made = write_regression(tmp_path, records=320_000, batch_size=32)
    assert made.noise_scale == pytest.approx(33.5)
    measured = measure_noise(
        model(made.net, made.solver), runtime, NoiseOptions(groups=100, passes=100)
    )
    noise = measured.noise
    assert noise.value == pytest.approx(made.noise_scale, rel=0.05)
    assert noise.gradient_norm_squared == pytest.approx(made.gradient_norm_squared, rel=0.05)
    assert noise.trace == pytest.approx(made.trace, rel=0.05)
    assert noise.standard_error is not None
    assert noise.standard_error < 0.01 * made.noise_scale
    assert noise.high is not None
    assert noise.low < made.noise_scale < noise.high
    assert measured.notes == (AT_FILLERS,)


def test_trained_weights_and_another_micro_batch(runtime: Runtime, tmp_path: Path) -> None:
    """Twice as far from the truth as the fillers' weights."""
    made = write_regression(tmp_path, records=256_000, batch_size=4, sigma=3)
    weights = save_weights(tmp_path / "a.caffemodel", ip=WEIGHT + 1 / 10**0.5)
    options = NoiseOptions(batch_size=320, groups=50, passes=16, weights=(weights,))
    measured = measure_noise(model(made.net), runtime, options)
    assert measured.batch_size == 320
    assert measured.noise.gradient_norm_squared == pytest.approx(4.0, rel=0.05)
    assert measured.noise.value == pytest.approx(11 + 10 * 9 / 4, rel=0.05)
    assert measured.notes == ()


def test_layers_that_no_weights_file_has_are_reported(runtime: Runtime, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    layers = [dense("a", "data", "a"), dense("b", "a", "b"), dense("c", "b", "out")]
    net.write_text(DATA + "".join(layers) + LOSS)
    files = (
        save_weights(tmp_path / "1.caffemodel", (3, 3), a=1.0, unheard_of=1.0),
        save_weights(tmp_path / "2.caffemodel", (3, 3), c=1.0),
    )
    options = NoiseOptions(groups=5, passes=2, weights=files)
    assert measure_noise(model(net), runtime, options).notes == (
        "No weights file has layer b: its fillers' values stay.",
    )


def test_the_solver_gives_the_seed_and_selects_the_layers(runtime: Runtime, tmp_path: Path) -> None:
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(
        DATA
        + dense("a", "data", "a", 'include { stage: "s" }')
        + dense("b", "a", "out", "include { min_level: 2 }")
        + LOSS
    )
    solver.write_text('random_seed: 1 train_state { stage: "s" level: 2 }')
    options = NoiseOptions(groups=5, passes=2)
    first, second = (measure_noise(model(net, solver), runtime, options) for _ in range(2))
    assert first == second
    assert first.noise.trace > 0


@pytest.mark.parametrize(
    ("net", "counted", "frozen"),
    [
        (SHARED, [("first", 0), ("first", 1), ("again", 1), ("last", 0)], []),
        (FROZEN, [("moving", 0), ("moving", 1)], [("still", 0), ("still", 1)]),
        (
            RECURRENT,
            [("before", 0), ("before", 1), ("ip", 0), ("ip", 1)],
            [("lstm", 0), ("lstm", 1), ("lstm", 2)],
        ),
    ],
    ids=["shared", "frozen", "recurrent"],
)
def test_trained_parameters_count_once(
    pycaffe: Callable[..., str],
    tmp_path: Path,
    net: str,
    counted: list[tuple[str, int]],
    frozen: list[tuple[str, int]],
) -> None:
    (tmp_path / "read.prototxt").write_text(net)
    assert read_recipe(tmp_path / "read.prototxt").train.frozen_parameters() == frozen
    arguments = (str(MICRO_GRADIENTS.parent), net, json.dumps(counted), json.dumps(frozen))
    told = json.loads(pycaffe(BY_HAND, *arguments, cwd=tmp_path))
    assert told["ours"]["passes"] == 4
    assert told["ours"]["micro_norm_squared"] == pytest.approx(told["micro"], rel=1e-5)
    assert told["ours"]["mean_norm_squared"] == pytest.approx(told["mean"], rel=1e-5)
    assert told["micro"] > told["mean"] > 0
    if net is RECURRENT:
        assert min(told["left_out"]) > 0
    # Hooks are called down to layer 0, whether or not it has anything to do.
    assert told["called"] == list(reversed(range(len(told["called"]))))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("EuclideanLoss", "Eltwise"), NoiseOptions(), "has no loss"),
        (("data.txt", "none.txt"), NoiseOptions(), "none.txt"),
        (
            ("", ""),
            NoiseOptions(weights=(Path("none.caffemodel"),)),
            "none.caffemodel: no such file",
        ),
        (
            ("", ""),
            NoiseOptions(weights=(Path("other"),)),
            "no layer of the net has weights in",
        ),
        (("", ""), NoiseOptions(weights=(Path("large"),)), "load its weights: .* shape mismatch"),
        (("", ""), NoiseOptions(device=Device(3)), "GPU 3 is not possible"),
    ],
)
def test_what_cannot_be_measured(
    runtime: Runtime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    options: NoiseOptions,
    message: str,
) -> None:
    made = write_regression(tmp_path, records=100, batch_size=5)
    made.net.write_text(made.net.read_text().replace(*change))
    save_weights(tmp_path / "other", another=1.0)
    save_weights(tmp_path / "large", (1, 11), ip=1.0)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        measure_noise(model(made.net), runtime, options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_net_that_waits_for_data(runtime: Runtime, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    shapes = "shape { dim: 5 dim: 3 } shape { dim: 5 dim: 3 }"
    feed = (
        f'layer {{ name: "feed" type: "Input" top: "data" top: "aim" input_param {{ {shapes} }} }}'
    )
    net.write_text(feed + dense("ip", "data", "out") + LOSS)
    with pytest.raises(InputError, match="layer 'feed' of type Input gets its data"):
        measure_noise(model(net), runtime)


def test_the_scripts_are_written_for_python_3_6(runtime: Runtime) -> None:
    for script in (INSIDE / "noise.py", MICRO_GRADIENTS):
        ast.parse(script.read_text(), feature_version=(3, 6))
        check = f"compile(open({str(script)!r}).read(), 'script', 'exec')"
        subprocess.run(runtime.command(["-c", check]), env=runtime.environment(), check=True)


def save_weights(path: Path, shape: tuple[int, int] = (1, 10), **layers: float) -> Path:
    """A .caffemodel with a constant weight matrix for each layer named."""
    net = caffe_pb2.NetParameter()
    for name, value in layers.items():
        layer = net.layer.add(name=name, type="InnerProduct")
        layer.blobs.add(data=[value] * shape[0] * shape[1]).shape.dim.extend(shape)
        if shape[0] > 1:
            layer.blobs.add(data=[0.0] * shape[0]).shape.dim.append(shape[0])
    path.write_bytes(net.SerializeToString())
    return path
