"""Every learning-rate policy against the steps that real Caffe takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from google.protobuf import text_format

from caffe_batch.errors import InputError
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.learning_rate import POLICIES, learning_rate

UPDATES = 23

SETTINGS = {
    "fixed": "",
    "step": "gamma: 0.3 stepsize: 7",
    "exp": "gamma: 0.9",
    "inv": "gamma: 0.02 power: 0.75",
    # One before the first update, one after the last. Two at the same update, and one that is not
    # in order: one step an update is taken.
    "multistep": "gamma: 0.5 stepvalue: [0, 5, 5, 3, 17, 23]",
    "poly": "power: 1.5",
    "sigmoid": "gamma: 0.4 stepsize: 11",
}

# One weight, whose gradient is 1: SGD without momentum takes exactly the learning rate off it.
STEPS = """
import json, sys, caffe
from google.protobuf import text_format
net = '''
layer { name: "one" type: "DummyData" top: "one"
        dummy_data_param { shape { dim: 1 dim: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "one" top: "ip" loss_weight: 1
        inner_product_param { num_output: 1 bias_term: false } }
'''
open("net.prototxt", "w").write(net)
steps = {}
for policy, text in json.loads(sys.argv[1]).items():
    open("solver.prototxt", "w").write('net: "net.prototxt" ' + text)
    solver = caffe.get_solver("solver.prototxt")
    weight = solver.net.params["ip"][0].data
    steps[policy] = []
    for _ in range(int(sys.argv[2])):
        weight[...] = 0
        solver.step(1)
        steps[policy].append(-float(weight))
print(json.dumps(steps))
"""


def solver_text(policy: str) -> str:
    return (
        f'base_lr: 0.37 lr_policy: "{policy}" {SETTINGS[policy]} max_iter: {UPDATES} '
        'snapshot_prefix: "x"'
    )


def parse(text: str) -> caffe_pb2.SolverParameter:
    return text_format.Parse(text, caffe_pb2.SolverParameter())


@pytest.fixture(scope="module")
def steps(
    pycaffe: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    texts = json.dumps({policy: solver_text(policy) for policy in POLICIES})
    taken = json.loads(pycaffe(STEPS, texts, str(UPDATES), cwd=tmp_path_factory.mktemp("lr")))
    assert isinstance(taken, dict)
    return taken


def test_every_policy_has_settings_here() -> None:
    assert set(SETTINGS) == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_rates_are_those_of_caffe(policy: str, steps: dict[str, list[float]]) -> None:
    solver = parse(solver_text(policy))
    rates = [learning_rate(solver, done) for done in range(UPDATES)]
    assert rates == pytest.approx(steps[policy], rel=2e-6)
    assert policy == "fixed" or len({f"{rate:.5g}" for rate in rates}) > 2


def test_extreme_settings_give_numbers_not_exceptions() -> None:
    sigmoid = parse('base_lr: 1 lr_policy: "sigmoid" gamma: 9 stepsize: 100000 max_iter: 5')
    assert learning_rate(sigmoid, 0) == 0
    growing = parse('base_lr: 1 lr_policy: "exp" gamma: 10 max_iter: 5')
    assert learning_rate(growing, 100_000) == float("inf")


def test_unknown_policy_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="no lr_policy 'multi_step'\nDid you mean multist"):
        learning_rate(parse('base_lr: 1 lr_policy: "multi_step"'), 0)


def test_missing_policy_is_an_error() -> None:
    with pytest.raises(InputError, match="no lr_policy\nCaffe's policies are fixed, step"):
        learning_rate(parse("base_lr: 1"), 0)


@pytest.mark.parametrize("policy", ["step", "sigmoid"])
def test_missing_stepsize_is_an_error(policy: str) -> None:
    with pytest.raises(InputError, match=f"lr_policy '{policy}' needs a stepsize above 0"):
        learning_rate(parse(f'base_lr: 1 gamma: 0.1 lr_policy: "{policy}"'), 0)
