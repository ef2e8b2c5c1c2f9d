"""The memory of a training counted without numbers is that of a real one, to the byte."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from caffe_batch.engines.torch.memory.trace import Stage
from caffe_batch.engines.torch.worker.memory import FileAndNet
from caffe_batch.errors import CaffeBatchError
from caffe_batch.memory.ledger import Part
from tests.engines.torch.drawn_nets import drawn_trial
from tests.engines.torch.memory.counts import SOLVER, fake_and_real, net_of
from tests.engines.torch.test_torch_nets import NETS, SLOW, whole_net

STILL = SOLVER.replace("momentum: 0.9", "")

#: The solver types, and what else changes an update.
SOLVERS = {
    **{name: f'type: "{name}" {SOLVER}' for name in ("SGD", "Nesterov", "AdaDelta", "Adam")},
    **{name: f'type: "{name}" {STILL}' for name in ("AdaGrad", "RMSProp")},
    "no momentum": STILL,
    "L1": f'{SOLVER} regularization_type: "L1"',
    "clipped": f"{SOLVER} clip_gradients: 1",
    "accumulated": f"{SOLVER} iter_size: 5",
    "displayed": f"{SOLVER} display: 1",
}

DATA = Path(__file__).parents[3] / "data"

#: The trained nets among those whose memory in Caffe was measured.
MEASURED = [
    case["net"]
    for file in ("engine_memory", "gpu_memory", "layer_memory")
    for case in json.loads((DATA / f"{file}.json").read_text())["cases"]
]

CONVOLUTIONAL = """
layer { name: "data" type: "Data" top: "data" top: "label"
        data_param { batch_size: 7 source: "none" } transform_param { crop_size: 11 mirror: true
        mean_value: 3 scale: 0.5 } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "BatchNorm" bottom: "c" top: "b" }
layer { name: "s" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "b" top: "b" }
layer { name: "p" type: "Pooling" bottom: "b" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "d" type: "Dropout" bottom: "p" top: "p" }
layer { name: "i" type: "InnerProduct" bottom: "p" top: "i"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "i" bottom: "label" top: "l" }
layer { name: "a" type: "Accuracy" bottom: "i" bottom: "label" top: "a" include { phase: TEST } }
"""
SHAPES = {"data": (3, 13, 17)}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_update_is_counted_to_the_byte(solver: str) -> None:
    net = net_of(CONVOLUTIONAL, 5, shapes=SHAPES)
    fake, real = fake_and_real(net, solver=SOLVERS[solver])
    assert fake == real
    update = [s for s in fake.stretches if s.stage is Stage.UPDATE]
    assert len(update) >= 2, "two updates"
    state = sum(tensor.bytes for s in fake.stretches for tensor in s.tensors
                if tensor.part is Part.SOLVER_STATE)  # fmt: skip
    weights = sum(tensor.bytes for s in fake.stretches for tensor in s.tensors
                  if tensor.part is Part.PARAMETERS)  # fmt: skip
    assert weights == 4 * (5 * 3 * 9 + 5 + 2 * 5 + 1 + 2 * 5 + 3 * 5 * 5 * 5 + 3)
    assert state == weights * (2 if solver in ("AdaDelta", "Adam") else 1)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_tests_are_counted_to_the_byte(size: int) -> None:
    nets = [
        net_of(CONVOLUTIONAL, 4, shapes=SHAPES),
        net_of(CONVOLUTIONAL, size, shapes=SHAPES, phase="TEST"),
    ]
    fake, real = fake_and_real(*nets, solver=f"{SOLVER} test_iter: 3 test_interval: 10")
    assert fake == real
    assert sum(s.stage is Stage.TEST for s in fake.stretches) == 2  # before the updates, and after
    own = {place for place, of in enumerate(fake.places) if of.net == 1}
    kept = [tensor for s in fake.stretches for tensor in s.tensors
            if tensor.place in own and tensor.part is Part.PARAMETERS]  # fmt: skip
    assert kept == [], "a test net has the weights of the train net"


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETS]
)
def test_whole_nets_are_counted_to_the_byte(name: str, size: int) -> None:
    fake, real = fake_and_real(net_of(whole_net(name).text, size))
    assert fake == real
    assert fake.peak_bytes() == sum(tensor.bytes for tensor in fake.at_peak())


def _depends_on_numbers(net: FileAndNet) -> bool:
    """Whether it has a Filter, which is counted as if it let all samples pass."""
    return any(node.layer.type == "Filter" for node in net.graph.nodes)


#: Why some of these nets can't be counted.
REFUSED = re.compile(
    r".*: the size of '\w+' is not known"  # its data isn't here
    r"|.*unknown layer type|.*has no layer type"  # of a fork
    r"|.*: hidden state .* must be|.*: the bottoms of an LSTMUnit are"  # not at this batch size
    r"|.*: top '\w+' is already produced|.*\) here, \(.*\) there"  # Caffe refuses it as well
)


class Counted(NamedTuple):
    """What became of some nets at two batch sizes each.

    Attributes:
        counts: How many were counted.
        refused: Those that weren't, by reason.
    """

    counts: int
    refused: Counter[str]


def _all_counted(texts: Iterable[Callable[[], str]]) -> Counted:
    """Counts nets at two batch sizes."""
    counts, refused = 0, Counter[str]()
    for text in texts:
        for size in (3, 4):
            try:
                net = net_of(text(), size)
                fake, real = fake_and_real(net)
            except CaffeBatchError as error:
                if not REFUSED.match(error.message):
                    raise
                refused[error.message] += 1
                continue
            if _depends_on_numbers(net):
                assert fake.peak_bytes() >= real.peak_bytes(), text()
            elif (
                "STOCHASTIC" in text()
            ):  # on the CPU its Backward takes other steps, not larger ones
                assert fake.peak_bytes() == real.peak_bytes(), text()
            else:
                assert fake == real, text()
            counts += 1
    return Counted(counts, refused)


def _drawn_net(seed: int) -> str:
    return drawn_trial(seed).text


def _drawn(seeds: range) -> list[Callable[[], str]]:
    return [partial(_drawn_net, seed) for seed in seeds]


def _measured(nets: Iterable[str]) -> list[Callable[[], str]]:
    return [partial(str, net) for net in nets]


def test_measured_nets_are_counted_to_the_byte() -> None:
    small = [net for net in MEASURED[::25] if len(net) < 2000]
    found = _all_counted(_measured(small))
    assert found.counts == 2 * len(small) - found.refused.total()
    assert found.counts == 28, found.refused  # one is of an HDF5 file


@pytest.mark.slow
def test_all_measured_nets_are_counted_to_the_byte() -> None:
    found = _all_counted(_measured(MEASURED))
    assert found.counts > 400, found.refused


def test_drawn_nets_are_counted_to_the_byte() -> None:
    assert _all_counted(_drawn(range(5))) == (10, Counter())


@pytest.mark.slow
def test_more_drawn_nets_are_counted_to_the_byte() -> None:
    found = _all_counted(_drawn(range(5, 60)))
    assert found.counts > 100, found.refused
