"""What Caffe refuses in a solver is refused before anything is written; real Caffe is the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_batch.errors import InputError
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.checks import check_solver

NET = """
layer { name: "one" type: "DummyData" top: "one"
        dummy_data_param { shape { dim: 1 dim: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "one" top: "ip" loss_weight: 1
        inner_product_param { num_output: 1 bias_term: false } }
"""
BASE = 'net: "net.prototxt" base_lr: 0.1 '
FIXED = BASE + 'lr_policy: "fixed" max_iter: 2 '
STEPPED = BASE + "max_iter: 2 "

REFUSED = {
    "average_loss": FIXED + "average_loss: 0",
    "average_loss below 0": FIXED + "average_loss: -3",
    "momentum of RMSProp": FIXED + 'type: "RMSProp" momentum: 0.9',
    "momentum of AdaGrad": FIXED + 'type: "AdaGrad" momentum: 0.9',
    "rms_decay of 1": FIXED + 'type: "RMSProp" rms_decay: 1',
    "rms_decay below 0": FIXED + 'type: "RMSProp" rms_decay: -0.5',
    "L3": FIXED + 'weight_decay: 0.1 regularization_type: "L3"',
    "gamma of step": STEPPED + 'lr_policy: "step" gamma: -0.1 stepsize: 1',
    "gamma of exp": STEPPED + 'lr_policy: "exp" gamma: -0.1',
    "gamma of inv": STEPPED + 'lr_policy: "inv" gamma: -0.1 power: 1',
    "gamma of multistep": STEPPED + 'lr_policy: "multistep" gamma: -0.1 stepvalue: 1',
    "gamma of sigmoid": STEPPED + 'lr_policy: "sigmoid" gamma: -0.1 stepsize: 1',
    "no stepsize": STEPPED + 'lr_policy: "step" gamma: 0.1',
    "no middle": STEPPED + 'lr_policy: "sigmoid" gamma: 0.1',
    "policy": STEPPED + 'lr_policy: "stepp"',
    "no policy": STEPPED,
}
TAKEN = {
    "L3 without decay": FIXED + 'regularization_type: "L3"',
    "momentum of AdaDelta": FIXED + 'type: "AdaDelta" momentum: 0.9',
    "no momentum": FIXED + 'type: "RMSProp" momentum: 0',
    "gamma of fixed": FIXED + "gamma: -0.1",
    "gamma of poly": STEPPED + 'lr_policy: "poly" power: 1 gamma: -1',
    "momentum above 1": FIXED + "momentum: 2",
    "negative rate": FIXED.replace("0.1", "-0.1"),
    "no tests": FIXED + "test_interval: 0",
}

RUN = """
import sys, caffe
open("net.prototxt", "w").write(sys.argv[1])
open("solver.prototxt", "w").write(sys.argv[2])
caffe.get_solver("solver.prototxt").solve()
"""


def parse(text: str) -> caffe_pb2.SolverParameter:
    return text_format.Parse(text, caffe_pb2.SolverParameter())


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_refuses(name: str, pycaffe: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"solver\.prototxt: "):
        check_solver(parse(REFUSED[name]), Path("solver.prototxt"))
    with pytest.raises(RuntimeError, match=r"Check failed|Unknown"):
        pycaffe(RUN, NET, REFUSED[name], cwd=tmp_path)


@pytest.mark.parametrize("name", TAKEN)
def test_what_caffe_takes(name: str, pycaffe: Callable[..., str], tmp_path: Path) -> None:
    check_solver(parse(TAKEN[name]), Path("solver.prototxt"))
    pycaffe(RUN, NET, TAKEN[name], cwd=tmp_path)


#: Whether the weight stays as it is or becomes NaN.
LEARNS_NOTHING = """
import json, sys, caffe
open("net.prototxt", "w").write(sys.argv[1])
open("solver.prototxt", "w").write(sys.argv[2])
solver = caffe.get_solver("solver.prototxt")
before = float(solver.net.params["ip"][0].data)
solver.solve()
after = float(solver.net.params["ip"][0].data)
print(json.dumps(before == after or after != after))
"""


@pytest.mark.parametrize("iter_size", [0, -3])
def test_an_update_without_passes_learns_nothing(
    iter_size: int, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    # Caffe divides the gradient by iter_size and runs no pass at all.
    text = FIXED + f"iter_size: {iter_size}"
    with pytest.raises(InputError, match=f"iter_size {iter_size}"):
        check_solver(parse(text), None)
    assert json.loads(pycaffe(LEARNS_NOTHING, NET, text, cwd=tmp_path))


@pytest.mark.parametrize(
    ("decays", "learns"),
    [
        ("momentum: 1", False),
        ("momentum: 0.9 momentum2: 1", False),
        ("momentum: 0.9 momentum2: 1.5", False),
        ("momentum: 0.9 momentum2: 0.9999", True),
        ("", True),
    ],
)
def test_decays_with_which_adam_learns_nothing(
    decays: str, learns: bool, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    text = FIXED + f'type: "Adam" {decays}'
    if learns:
        check_solver(parse(text), None)
    else:
        with pytest.raises(InputError, match=r"momentum2? is 1"):
            check_solver(parse(text), None)
    assert json.loads(pycaffe(LEARNS_NOTHING, NET, text, cwd=tmp_path)) is not learns


def test_a_solver_that_a_program_steps_has_no_length() -> None:
    text = BASE + 'lr_policy: "fixed" '
    check_solver(parse(text), None, needs_length=False)
    with pytest.raises(InputError, match="has no max_iter") as error:
        check_solver(parse(text), None)
    assert "epochs" in str(error.value.hint)
    with pytest.raises(InputError, match="max_iter is 0"):
        check_solver(parse(text + "max_iter: 0"), None, needs_length=False)
    with pytest.raises(InputError, match="'poly' ends at max_iter"):
        check_solver(parse(BASE + 'lr_policy: "poly"'), None, needs_length=False)
