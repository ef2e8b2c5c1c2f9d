"""From nets to bytes: which memory Caffe requests, and when.

The model walks through what a training run does first: it builds the nets, tests, and makes two
updates, pass by pass and layer by layer. After that nothing new is ever requested.

Only Caffe's own requests are counted. The CUDA context and the library handles are not among them
(planning keeps a reserve for those); what cudaMalloc adds by rounding is reported separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caffe_batch.layers.base import Mode, count
from caffe_batch.memory.base import Prediction
from caffe_batch.memory.build import Build, nvcaffe_uncertain_bytes
from caffe_batch.memory.ledger import LayerBytes, Ledger, Part, Step
from caffe_batch.memory.program import FLOAT_BYTES, Params, Program
from caffe_batch.memory.solver_state import SolverSettings
from caffe_batch.net.graph import Net


def predict_nets(
    train: Net,
    tests: Sequence[Net],
    solver: SolverSettings,
    mode: Mode,
    *,
    build: Build = Build.CAFFE,
    gpus: int = 1,
    half: bool = False,
) -> Prediction:
    """The memory of training ``train`` with ``solver``, testing on ``tests``.

    Args:
        train: The net of phase TRAIN.
        tests: The test nets, in the solver's order.
        solver: The solver's settings that decide its memory.
        mode: ``"gpu"`` counts device memory, ``"cpu"`` host memory.
        build: The build of Caffe.
        gpus: GPUs that train together. The memory is that of the first one, which takes the most:
            the tests run there.
        half: Whether NVCaffe works in half precision.
    """
    ledger = Ledger(mode)
    training = Program(ledger, build, half=half)
    params = training.add_net(train, "train")
    testing = Program(ledger, build, half=half)
    for number, net in enumerate(tests):
        testing.add_net(net, f"test{number}", backward=False, trained=params)
    ledger.run(training.build)
    ledger.run(testing.build)
    after_build = ledger.peak
    if gpus > 1 and build is not Build.NVCAFFE:
        ledger.run([_parallel_step(ledger, params)])
    update = _update_step(ledger, train, params, solver)
    # Tests run before the first update, or else after test_interval updates.
    early = solver.test_initialization or solver.test_interval == 1
    # The second update touches what the first one did, except for pointers that Backward set;
    # memory that is only used within a pass then comes on top of all that the first one left.
    steps = (*training.backward, *training.forward, *testing.forward)
    passing = any(step.transient_bytes for step in steps)
    updates = 2 if passing or any(step.shares for step in training.backward) else 1
    for _ in range(updates):
        if early and solver.test_interval:
            ledger.run(testing.forward)
        ledger.run(training.forward)
        ledger.run(reversed(training.backward))
        ledger.run([update])
    after_two_updates = ledger.peak
    if not early and solver.test_interval:
        ledger.run(testing.forward)
    unknown = [name for net in (train, *tests) for name in net.unknown_layers]
    unknown += training.partial + testing.partial
    there = ledger.at_peak()
    layers = ledger.by_layer(there)
    uncertain = training.uncertain_bytes + testing.uncertain_bytes
    if build is Build.NVCAFFE:
        sharing = {
            node.layer.type
            for net in (train, *tests)
            for node in net.nodes
            if node.rule.may_share_top
        }
        uncertain += nvcaffe_uncertain_bytes(layers, sharing)
    return Prediction(
        mode=mode,
        after_build_bytes=after_build,
        after_two_updates_bytes=after_two_updates,
        peak_bytes=ledger.peak,
        parts=_total_parts(layers),
        layers=layers,
        unknown_layers=tuple(dict.fromkeys(unknown)),
        rounding_bytes=ledger.rounding_bytes(there),
        uncertain_bytes=uncertain,
        build=build,
        terms=ledger.terms(there),
        upper_bound_layers=tuple(dict.fromkeys(training.at_most + testing.at_most)),
    )


def _parallel_step(ledger: Ledger, params: Params) -> Step:
    """What training on several GPUs does on each before it begins (parallel.cpp, GPUParams).

    The data of all parameters moves into one buffer and the diffs into another, including frozen
    parameters and those that nothing reads. The buffers are as large as all parameters together,
    which is the same as touching each parameter.
    """
    ledger.join(data for data, _ in params.owners)
    ledger.join(diff for _, diff in params.owners)
    return Step(0, [], [side for slot in params.owners for side in slot])


def _update_step(ledger: Ledger, net: Net, params: Params, solver: SolverSettings) -> Step:
    """What zeroing the gradients and applying the update touch.

    That is every diff and the solver's state; weight decay also reads the weights. Blob::Update
    works where the weights already are, and so moves none of them.
    """
    touches = []
    for parameter, (data, diff), row in zip(net.params, params.owners, params.rows, strict=True):
        touches.append(diff)
        if ledger.mode == "cpu" or solver.decays(parameter.decay_mult):
            touches.append(data)
        blobs = solver.state_blobs(parameter.decay_mult, ledger.mode)
        size = blobs * FLOAT_BYTES * count(parameter.shape)
        touches.append(ledger.side(size, Part.SOLVER_STATE, row, requests=blobs))
    return Step(0, [], touches)


def _total_parts(layers: Iterable[LayerBytes]) -> dict[Part, int]:
    totals = dict.fromkeys(Part, 0)
    for layer in layers:
        for part, size in layer.parts.items():
            totals[part if layer.net == "train" else Part.TEST_NET] += size
    return totals
