"""From nets to bytes: which memory Caffe asks for, and when.

The model walks through what a training run does first: it builds the nets, tests, and makes two
updates, pass by pass and layer by layer. After that nothing new is ever asked for.

Counted are Caffe's own requests. The CUDA context, the library handles and the granularity of
cudaMalloc are not among them (see ``reserve`` in planning).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caffe_batch.layers.base import Mode, count
from caffe_batch.memory.ledger import LayerBytes, Ledger, Part, Step
from caffe_batch.memory.program import FLOAT_BYTES, Params, Program
from caffe_batch.memory.solver_state import SolverSettings
from caffe_batch.net.graph import Net


@dataclass(frozen=True)
class Prediction:
    """The memory of a training run, in bytes of Caffe's own requests.

    Attributes:
        after_build_bytes: Once the solver is constructed.
        after_two_updates_bytes: After two updates, with the tests that run before or between.
        peak_bytes: The most there will ever be: two updates and one test.
        parts: Bytes by :class:`Part`; they sum to the peak.
        layers: The same sum by layer, train net first.
        unknown_layers: Layers without a rule; if there are any, the peak is a lower bound.
    """

    mode: Mode
    after_build_bytes: int
    after_two_updates_bytes: int
    peak_bytes: int
    parts: dict[Part, int]
    layers: tuple[LayerBytes, ...]
    unknown_layers: tuple[str, ...]


def predict_nets(
    train: Net, tests: Sequence[Net], solver: SolverSettings, mode: Mode
) -> Prediction:
    """The memory of training ``train`` with ``solver``, testing on ``tests``.

    Args:
        train: The net of phase TRAIN.
        tests: The test nets, in the solver's order.
        solver: What of the solver decides memory.
        mode: ``"gpu"`` counts device memory, ``"cpu"`` host memory.
    """
    ledger = Ledger(mode)
    training = Program(ledger)
    params = training.add_net(train, "train")
    testing = Program(ledger)
    for number, net in enumerate(tests):
        testing.add_net(net, f"test{number}", backward=False, trained=params)
    ledger.run(training.build)
    ledger.run(testing.build)
    after_build = ledger.peak
    update = _update_step(ledger, train, params, solver)
    # Tests run before the first update, or else at update test_interval.
    early = solver.test_initialization or solver.test_interval == 1
    for _ in range(2):
        if early and solver.test_interval:
            ledger.run(testing.forward)
        ledger.run(training.forward)
        ledger.run(reversed(training.backward))
        ledger.run([update])
    after_two_updates = ledger.peak
    if not early and solver.test_interval:
        ledger.run(testing.forward)
    unknown = [name for net in (train, *tests) for name in net.unknown_layers]
    layers = ledger.by_layer()
    return Prediction(
        mode=mode,
        after_build_bytes=after_build,
        after_two_updates_bytes=after_two_updates,
        peak_bytes=ledger.peak,
        parts=_total_parts(layers),
        layers=layers,
        unknown_layers=tuple(dict.fromkeys(unknown)),
    )


def _update_step(ledger: Ledger, net: Net, params: Params, solver: SolverSettings) -> Step:
    """What zeroing the gradients and applying the update touch.

    Every diff and the solver's state; weight decay reads the weights too. Blob::Update works where
    the weights lie already, and so moves none of them.
    """
    touches = list(params.diff)
    for i, parameter in enumerate(net.params):
        if ledger.mode == "cpu" or solver.decays(parameter.decay_mult):
            touches.append(params.data[i])
        elements = solver.state_count(count(parameter.shape), parameter.decay_mult, ledger.mode)
        touches.append(ledger.side(FLOAT_BYTES * elements, Part.SOLVER_STATE, params.rows[i]))
    return Step(0, [], touches)


def _total_parts(layers: Iterable[LayerBytes]) -> dict[Part, int]:
    totals = dict.fromkeys(Part, 0)
    for layer in layers:
        for part, size in layer.parts.items():
            totals[part if layer.net == "train" else Part.TEST_NET] += size
    return totals
