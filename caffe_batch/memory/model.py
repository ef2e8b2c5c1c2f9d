"""From nets to bytes: which memory Caffe asks for, and when.

The model walks through what a training run does first: it builds the nets, tests, and makes two
updates, pass by pass and layer by layer. After that nothing new is ever asked for.

Counted are Caffe's own requests. The CUDA context and the library handles are not among them (see
``reserve`` in planning); what cudaMalloc adds by rounding is told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caffe_batch.layers.base import Mode, count
from caffe_batch.memory.build import Build, nvcaffe_uncertain_bytes
from caffe_batch.memory.ledger import LayerBytes, Ledger, Part, Step, Terms
from caffe_batch.memory.program import FLOAT_BYTES, Params, Program
from caffe_batch.memory.solver_state import SolverSettings
from caffe_batch.net.graph import Net


@dataclass(frozen=True)
class Prediction:
    """The memory of a training run, in bytes of Caffe's own requests.

    Attributes:
        after_build_bytes: The most there is until the solver is constructed.
        after_two_updates_bytes: The same until two updates are done, with the tests that run before
            or between.
        peak_bytes: The most there will ever be: two updates and one test.
        parts: Bytes by :class:`Part`; they sum to the peak.
        layers: The same sum by layer, train net first.
        unknown_layers: Layers without a rule, and those whose source wasn't read but is all kept
            in memory (HDF5Data in CPU mode); if there are any, the peak is a lower bound.
        rounding_bytes: What cudaMalloc adds to the peak by rounding each request up.
        uncertain_bytes: How much of the totals may turn out not to be taken: with cuDNN the
            workspaces, with NVCaffe whatever it may do otherwise. 0 for Caffe's own kernels.
        build: The build of Caffe; for NVCaffe all figures are estimates.
        terms: The peak as a sum whose terms follow the batch size; None where it is no plain sum.
    """

    mode: Mode
    after_build_bytes: int
    after_two_updates_bytes: int
    peak_bytes: int
    parts: dict[Part, int]
    layers: tuple[LayerBytes, ...]
    unknown_layers: tuple[str, ...]
    rounding_bytes: int = 0
    uncertain_bytes: int = 0
    build: Build = Build.CAFFE
    terms: Terms | None = None

    @property
    def lower_peak_bytes(self) -> int:
        """The least that the peak can be; the peak itself if nothing is uncertain."""
        return self.peak_bytes - self.uncertain_bytes

    @property
    def allocated_bytes(self) -> int:
        """What the peak takes of the device, rounding included."""
        return self.peak_bytes + self.rounding_bytes


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
        solver: What of the solver decides memory.
        mode: ``"gpu"`` counts device memory, ``"cpu"`` host memory.
        build: The build of Caffe.
        gpus: GPUs that train together. Counted is the first one's memory, which is the most: the
            tests run there.
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
    # Tests run before the first update, or else at update test_interval.
    early = solver.test_initialization or solver.test_interval == 1
    # The second update touches what the first one did, but for pointers that Backward set; and
    # what lives within one pass then comes on top of all that the first one left.
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
    )


def _parallel_step(ledger: Ledger, params: Params) -> Step:
    """What training on several GPUs does to each before it begins (parallel.cpp, GPUParams).

    The data of all parameters moves into one buffer and the diffs into another, frozen parameters
    and ones that nothing reads included. The buffers are as large as the parameters together, so
    it is as if each parameter were touched.
    """
    ledger.join(data for data, _ in params.owners)
    ledger.join(diff for _, diff in params.owners)
    return Step(0, [], [side for slot in params.owners for side in slot])


def _update_step(ledger: Ledger, net: Net, params: Params, solver: SolverSettings) -> Step:
    """What zeroing the gradients and applying the update touch.

    Every diff and the solver's state; weight decay reads the weights too. Blob::Update works where
    the weights lie already, and so moves none of them.
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
