"""The memory of a recipe in PyTorch: a memory model whose figures come from fake runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from caffe_batch import prototxt
from caffe_batch.engines.base import MemoryCount
from caffe_batch.engines.torch.memory.counts import Counts, Run
from caffe_batch.engines.torch.memory.figures import Figures
from caffe_batch.engines.torch.memory.trace import TRAIN
from caffe_batch.engines.torch.memory.workspaces import Interval, workspaces
from caffe_batch.errors import InputError, NetError, ShapeError
from caffe_batch.layers.base import Layer
from caffe_batch.layers.given import WholeShape
from caffe_batch.memory import CaffeMemory, LayerBytes, Part, Prediction
from caffe_batch.memory.base import Peak
from caffe_batch.net.batch import batch_size
from caffe_batch.net.graph import Net
from caffe_batch.net.kinds import kind
from caffe_batch.net.recipe import NetFile
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.updates import clips, passes

#: What a plan says where Caffe's figures stand in.
STANDS_IN = (
    "The memory is what Caffe would take; PyTorch's differs{why}. Where the batch turns out too "
    "large for it, train goes on with the next smaller split by itself."
)

#: The same, of some batch sizes.
STANDS_IN_AT = (
    "At batch_size {sizes} the memory is what Caffe would take: PyTorch's can't be counted ({why})."
)

#: The row of what libraries take.
WORKSPACES = "(workspaces of the libraries)"

#: What kernels on the CPU take for themselves: an estimate.
_HOST_SHARE, _HOST_BYTES = 0.05, 4 * 2**20


@dataclass(frozen=True)
class TorchMemory(CaffeMemory):
    """The memory of one recipe in PyTorch.

    Attributes:
        count: Counts what a training allocates; None where there is no PyTorch to count it with:
            Caffe's figures then stand in, as they do where a net can't be counted.
    """

    engine: ClassVar[str] = "pytorch"

    count: MemoryCount | None = None

    @property
    def remarks(self) -> tuple[str, ...]:  # type: ignore[override]  # it depends on the count
        """What a plan should say about these figures."""
        counts = self._counts
        if counts is None:
            return (STANDS_IN.format(why=""),)
        if counts.problem:
            return (STANDS_IN.format(why=f" ({counts.problem})"),)
        reasons = dict[str, set[int]]()
        for run, problem in counts.problems.items():
            reasons.setdefault(problem, set()).add(run.sizes[TRAIN] or self.batch_size)
        return tuple(
            STANDS_IN_AT.format(sizes=", ".join(map(str, sorted(sizes))), why=problem)
            for problem, sizes in reasons.items()
        )

    def of(self, train: Net, tests: Sequence[Net]) -> Prediction:
        """The memory of training exactly these nets, which are the recipe's at some batch sizes."""
        counts = self._counts
        if counts is not None and not counts.problem:
            run = self._run(train, tests, min(2, passes(self.recipe.solver)))
            try:
                return self._prediction(counts.figures(run), train)
            except InputError as error:
                if run not in counts.problems:
                    counts.problem = error.message
        return super().of(train, tests)

    def peaks(self, sizes: Sequence[int]) -> dict[int, Peak]:
        """The predicted peak at each of these TRAIN batch sizes, with several passes an update.

        An update of one pass takes less, as there is no gradient yet when it begins.
        """
        counts = self._counts
        if counts is None or counts.problem:
            return super().peaks(sizes)
        nets: dict[int, Net] = {}
        found: dict[int, Peak] = {}
        runs = []
        for size in sizes:
            try:
                nets[size] = self.train_net(size)
                runs.append(self._run(nets[size], self.test_nets(size), 2))
            except ShapeError as error:
                found[size] = error.message
        own = tuple(_size(net) for net in replace(self, test_batches=()).test_nets())
        try:
            peaks = counts.peaks(runs, own)
        except InputError as error:
            counts.problem = error.message
            return super().peaks(sizes)
        for (size, net), peak in zip(nets.items(), peaks, strict=True):
            if peak is None:
                found |= super().peaks([size])
            else:
                found[size] = peak + self._beside(net, peak).most
        return {size: found[size] for size in sizes}

    def _run(self, train: Net, tests: Sequence[Net], number: int) -> Run:
        return Run(tuple(_size(net) for net in (train, *tests)), number)

    @cached_property
    def _counts(self) -> Counts | None:
        """What is counted of this recipe; None if nothing can be."""
        return None if self.count is None else Counts.of(self.count, self._settings())

    def _settings(self) -> dict[str, Any]:
        """The recipe as the worker takes it: what decides its memory, and nothing else."""
        files = (self.recipe.train, *self.recipe.tests)
        layers = (self.train_layers, *self.test_layers)
        nets = [_of_net(*each) for each in zip(files, layers, strict=True)]
        reads_means = any("mean_file" in net["text"] for net in nets)
        return {
            "solver": prototxt.write(_deciding(self.recipe.solver)),
            "nets": nets,
            "directories": [
                str(each.resolve()) for each in self.sources.directories if reads_means
            ],
            "real": False,
        }

    def _beside(self, train: Net, peak: int) -> Interval:
        """What comes beside the tensors: workspaces, or what the CPU's kernels take."""
        if self.mode == "gpu":
            return workspaces(train, self.gpus)
        return Interval(0, int(peak * _HOST_SHARE) + _HOST_BYTES)

    def _prediction(self, found: Figures, train: Net) -> Prediction:
        beside = self._beside(train, found.peak)
        row = LayerBytes("train", WORKSPACES, "", beside.most, {Part.LAYER_BUFFERS: beside.most})
        layers = (*found.layers, row)
        parts = dict.fromkeys(Part, 0)
        for layer in layers:
            for part, size in layer.parts.items():
                parts[part if layer.net == "train" else Part.TEST_NET] += size
        peak = found.peak + beside.most
        return Prediction(
            mode=self.mode,
            after_build_bytes=found.build,
            after_two_updates_bytes=peak,
            peak_bytes=peak,
            parts=parts,
            layers=layers,
            unknown_layers=(),
            rounding_bytes=found.reserved - found.peak if self.mode == "gpu" else 0,
            uncertain_bytes=beside.most - beside.least,
            engine=self.engine,
        )


def _size(net: Net) -> int | None:
    """The batch size of a net; None if it has none."""
    try:
        return batch_size([node.layer for node in net.nodes])
    except NetError:
        return None


def _of_net(file: NetFile, layers: Sequence[Layer]) -> dict[str, Any]:
    """A net as the worker takes it."""
    kept = caffe_pb2.NetParameter(force_backward=file.message.force_backward)
    kept.layer.extend(message for _, message in file.selected())
    _level(kept, file)
    shapes = {}
    for layer in layers:
        for top, record in zip(layer.tops, layer.records or (), strict=False):
            shapes[top] = "x".join(map(str, record))
        for top, given in zip(layer.tops, layer.given, strict=False):
            if isinstance(given, WholeShape):
                shapes[top] = f":{given}"
    return {
        "text": prototxt.write(kept),
        "phase": file.phase,
        "level": file.state.level,
        "stages": [*file.state.stage],
        "shapes": shapes,
    }


def _level(net: caffe_pb2.NetParameter, file: NetFile) -> None:
    """Take out of a net what doesn't decide its memory, or is given for each run."""
    batched = [
        getattr(layer, rule.message)
        for layer in net.layer
        if kind(layer) in file.rules and (rule := file.rules[kind(layer)]).has_batch_size
    ]
    if len({each.batch_size for each in batched}) == 1:
        for each in batched:
            each.batch_size = 1
    for layer in net.layer:
        layer.batch_norm_param.ClearField("moving_average_fraction")
        if not layer.batch_norm_param.ListFields():
            layer.ClearField("batch_norm_param")


def _deciding(solver: caffe_pb2.SolverParameter) -> caffe_pb2.SolverParameter:
    """A solver that takes the same memory, whatever the rates and the lengths are."""
    kept = caffe_pb2.SolverParameter(
        type=solver.type,
        momentum=0.9 if solver.momentum else 0,
        momentum2=0.99 if solver.momentum2 else 0,
        weight_decay=0.001 if solver.weight_decay else 0,
        regularization_type=solver.regularization_type,
        test_iter=[min(2, number) for number in solver.test_iter],
        test_interval=1 if solver.test_interval else 0,
        test_initialization=solver.test_initialization,
        test_compute_loss=solver.test_compute_loss,
        display=1 if solver.display else 0,
    )
    if clips(solver):
        kept.clip_gradients = 1
    return kept
