"""Whether a score depends on the test batch: the plan's word against real Caffe.

The same records are tested in batches of 12 and of 4, with the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, make_plan
from caffe_batch.planning.audit.findings import Cause, Verdict

RECORDS, WHOLE, SMALL = 24, 12, 4

DATA = """
layer {{ name: "in" type: "HDF5Data" top: "x" top: "y" include {{ phase: {phase} }}
  hdf5_data_param {{ source: "rows.txt" batch_size: {size} }} }}
"""
HIDDEN = """
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "h"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
"""
LOSS = """
layer { name: "out" type: "InnerProduct" bottom: "h" top: "out"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "y" top: "loss" }
"""

ONE = """
layer { name: "one" type: "Power" bottom: "y" top: "one" power_param { scale: 0 shift: 1 } }
"""

#: What stands between the hidden layer and the loss, and which layer makes the score another one.
LAYERS = {
    "plain": ("", ""),
    "dropout": ('layer { name: "d" type: "Dropout" bottom: "h" top: "h" }', ""),
    "mvn": (
        'layer { name: "r" type: "Reshape" bottom: "h" top: "r" reshape_param { shape { dim: 0 '
        'dim: 1 dim: -1 dim: 1 } } } layer { name: "m" type: "MVN" bottom: "r" top: "m" } '
        'layer { name: "s" type: "Flatten" bottom: "m" top: "h2" }', "",
    ),
    "known statistics": (
        'layer { name: "b" type: "BatchNorm" bottom: "h" top: "h" }', "",
    ),
    "own statistics": (
        'layer { name: "b" type: "BatchNorm" bottom: "h" top: "h" '
        "batch_norm_param { use_global_stats: false } }", "b",
    ),
    "softmax over the batch": (
        'layer { name: "b" type: "Softmax" bottom: "h" top: "h" softmax_param { axis: 0 } }', "b",
    ),
    "constant in place": (
        'layer { name: "k" type: "DummyData" top: "k" dummy_data_param { shape { dim: 6 } '
        'data_filler { value: 0.7 } } } layer { name: "e" type: "Power" bottom: "k" top: "k" '
        'power_param { scale: 0.5 } } '
        'layer { name: "b" type: "Scale" bottom: "h" bottom: "k" top: "h" '
        "scale_param { axis: 1 } }", "k",
    ),
    "random numbers": (
        'layer { name: "k" type: "DummyData" top: "k" dummy_data_param { shape { dim: 6 } '
        'data_filler { type: "gaussian" } } } layer { name: "b" type: "Bias" bottom: "h" '
        'bottom: "k" top: "h" bias_param { axis: 1 } }', "k",
    ),
    "state": (
        'layer { name: "r" type: "Reshape" bottom: "h" top: "r" reshape_param { num_axes: 0 '
        'shape { dim: 1 } } } layer { name: "c" type: "Reshape" bottom: "one" top: "c" '
        'reshape_param { num_axes: 0 shape { dim: 1 } } } layer { name: "b" type: "LSTM" '
        'bottom: "r" bottom: "c" top: "l" recurrent_param { num_output: 6 weight_filler { '
        'type: "xavier" } } } layer { name: "s" type: "Reshape" bottom: "l" top: "h2" '
        "reshape_param { shape { dim: -1 dim: 6 } } }", "b",
    ),
}  # fmt: skip

CHILD = """
import json, os, sys
import caffe
import numpy as np
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
scores = []
for size, passes in json.loads(sys.argv[1]):
    caffe.set_random_seed(1)
    net = caffe.Net("net%d.prototxt" % size, caffe.TEST)
    draw = np.random.RandomState(3)
    for name, blobs in net.params.items():
        for blob in blobs:
            blob.data[...] = 1 if name == "b" and len(blobs) == 3 and blob.data.ndim < 2 else (
                draw.uniform(-1, 1, blob.data.shape))
    scores.append(float(np.mean([float(net.forward()["loss"]) for _ in range(passes)])))
print(json.dumps(scores))
"""


def net_of(layers: str, size: int, phase: str = "TEST") -> str:
    more = ONE if '"one"' in layers else ""
    loss = LOSS.replace('bottom: "h"', 'bottom: "h2"') if '"h2"' in layers else LOSS
    return DATA.format(phase=phase, size=size) + HIDDEN + more + layers + loss


@pytest.mark.parametrize("name", LAYERS)
def test_a_score_depends_on_the_batch_where_the_plan_says_so(
    name: str, tmp_path: Path, pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layers, bound = LAYERS[name]
    draw = np.random.default_rng(4)
    with h5py.File("rows.h5", "w") as file:
        file["x"] = draw.normal(size=(RECORDS, 400)).astype(np.float32)
        file["y"] = draw.integers(3, size=RECORDS).astype(np.float32)
    Path("rows.txt").write_text("rows.h5\n")
    sizes = [(WHOLE, RECORDS // WHOLE), (SMALL, RECORDS // SMALL)]
    for size, _ in sizes:
        Path(f"net{size}.prototxt").write_text(net_of(layers, size))
    whole, small = json.loads(pycaffe(CHILD, json.dumps(sizes), cwd=tmp_path))
    if bound:
        assert abs(small - whole) > 1e-3 * abs(whole)
    else:
        assert small == pytest.approx(whole, rel=1e-5)

    # One file for both phases; what makes numbers stands there once for each.
    constant, dot, rest = layers.partition("} } } ") if '"k"' in layers else ("", "", layers)
    each = [f"{constant}{dot}".replace('top: "k"', f'top: "k" include {{ phase: {phase} }}')
            for phase in ("TRAIN", "TEST")]  # fmt: skip
    text = DATA.format(phase="TRAIN", size=1) + net_of(rest, WHOLE)
    Path("net.prototxt").write_text("".join(each) + text)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" max_iter: 9 test_iter: 2 test_interval: 3 base_lr: 0.1'
    )
    recipe = read_recipe(Path("solver.prototxt"))
    model = CaffeMemory(recipe, Sources(recipe.directories))
    # Room for the smallest batches alone: the test batch has to shrink.
    tight = model.with_test_batches((SMALL,)).at(1).allocated_bytes
    plan = make_plan(model, Budget(tight, 0), PlanOptions(effective_batch=2))
    (finding,) = [each for each in plan.findings if each.cause is Cause.TEST_BATCHES]
    assert (finding.layer or "") == bound
    drawn = name == "random numbers"
    other = Verdict.APPROXIMATE if drawn else Verdict.DIFFERENT
    assert finding.verdict is (other if bound else Verdict.EXACT)
    # Where both train splits fit beside the whole test batch or not at all, a bound one stays.
    roomy = model.at(1).allocated_bytes
    plan = make_plan(model, Budget(roomy, 0), PlanOptions(effective_batch=2))
    if bound and not drawn:
        assert [test.batch_size for test in plan.tests] == [WHOLE]
