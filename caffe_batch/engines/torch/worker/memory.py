"""Counts the memory of a training, without a GPU and without data. Beside what main.py lists, the
settings have

solver           the solver as text: what decides the memory of its updates and tests
nets             of the train net, then of each test net: "text", "phase", "level", "stages" and
                 "shapes": of records by top, without the batch
directories      where mean files are looked for
runs             what to count: "sizes", the batch size of each net (null for its own), and
                 "passes", those of an update
real             whether the tensors have numbers: to check the count
processes        how many of them are counted at the same time, each in a process of its own; null
                 to count one after the other in this one
result           folder for what is found, as 0.json, 1.json, ...: "torch", its version, and
                 "trace"; or "problem", why a run can't be counted

The run is that of a training: its nets, its update, its loop, its tests. Only its tensors have no
numbers, and its data layers no data.
"""  # noqa: D400, D415  # a list

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from caffe_batch import prototxt
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import BlankDraws
from caffe_batch.engines.torch.layers import FED
from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.memory.trace import TRAIN, PlaceOf, Stage, Trace
from caffe_batch.engines.torch.net import Pass
from caffe_batch.engines.torch.ranks.group import Alone
from caffe_batch.engines.torch.update import Update
from caffe_batch.engines.torch.worker.blank_data import BlankOpener
from caffe_batch.engines.torch.worker.counting import Counter
from caffe_batch.engines.torch.worker.moments import Moment, Surroundings
from caffe_batch.engines.torch.worker.nets import FedNet
from caffe_batch.engines.torch.worker.processes import side_by_side
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.solving import DivergedError, Rates, Trained, Training
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.errors import CaffeBatchError
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.loading import rules_with
from caffe_batch.memory.ledger import Part
from caffe_batch.net.batch import with_batch_size
from caffe_batch.net.graph import Net
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.updates import passes

_CPU = torch.device("cpu")


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Count; returns the worker's exit status."""
    started(events, "CPU", [])
    solver = prototxt.parse_solver(settings["solver"])
    files = [_net_file(each) for each in settings["nets"]]
    folders = tuple(Path(each) for each in settings["directories"])
    sources = [Sources(folders, _shapes(each["shapes"])) for each in settings["nets"]]
    events.send("built", update=0)
    result = Path(settings["result"])

    def count(number: int) -> None:
        run = settings["runs"][number]
        solver.iter_size = run["passes"]
        found: dict[str, Any] = {"torch": torch.__version__}
        try:
            nets = [
                FileAndNet(file, _graph(file, of_net, size))
                for file, of_net, size in zip(files, sources, run["sizes"], strict=True)
            ]
            trace = counted(solver, nets, sources[0].find, fake=not settings["real"])
            found["trace"] = trace.json()
        except CaffeBatchError as error:
            found["problem"] = error.message
        path = result / f"{number}.json"
        path.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")

    if settings["processes"] is not None:
        _warm_up()
    for done in side_by_side(count, len(settings["runs"]), settings["processes"]):
        events.send("updated", update=done, seconds=0.0, records=[])
    events.send("finished", update=len(settings["runs"]))
    return 0


def _warm_up() -> None:
    """Let torch import what it imports late, once for all copies of this process."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.relu(torch.zeros(1) + torch.ones(1))


@dataclass(frozen=True)
class FileAndNet:
    """A net as it is written, and built at a batch size."""

    file: NetFile
    graph: Net


def counted(
    solver: caffe_pb2.SolverParameter,
    nets: Sequence[FileAndNet],
    find: Callable[[str], Path],
    *,
    fake: bool = True,
    data: Opener | None = None,
) -> Trace:
    """The trace of a training: two updates with the tests before and after them, and a snapshot.

    Args:
        solver: The solver; only what decides memory counts.
        nets: The train net, then the test nets.
        find: Finds mean files.
        fake: Whether its tensors have no numbers, and take no memory.
        data: Opens the data layers; None for zeros in their place.
    """
    short = _short(solver)
    places = [
        PlaceOf(number, node.layer.name, node.layer.type)
        for number, each in enumerate(nets) for node in each.graph.nodes
    ]  # fmt: skip
    counter = Counter(places, fake=fake)
    collects = gc.isenabled()
    gc.disable()  # nothing here waits for it, and it may not fall into the count at random
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext(), counter:
            _train(short, nets, find, counter, BlankDraws(), data)
            trace = counter.trace()
    finally:
        if collects:
            gc.enable()
    return trace


def _train(
    solver: caffe_pb2.SolverParameter,
    nets: Sequence[FileAndNet],
    find: Callable[[str], Path],
    counter: Counter,
    draws: BlankDraws,
    data: Opener | None,
) -> None:
    fed: list[FedNet] = []
    first = 0  # the first place of the net
    for number, each in enumerate(nets):
        counter.stretch(Stage.BUILD, number)
        opener = data or BlankOpener(draws, find, each.graph)
        net = FedNet(
            each.file, each.graph, opener, device=_CPU, draws=draws, precision="float32",
            trained=fed[0].net if fed else None, filling=_filling(each.graph, opener),
        )  # fmt: skip
        places = {node.layer.name: first + i for i, node in enumerate(each.graph.nodes)}
        _watch(net, places, counter)
        first += len(places)
        fed.append(net)
    counter.stretch(Stage.BUILD, TRAIN)
    params = fed[0].net.params
    update = Update(solver, params)
    owners = {node.layer.name: i for i, node in enumerate(nets[0].graph.nodes)}
    for i, blob in enumerate(update.history):
        counter.tag(blob, Part.SOLVER_STATE, owners[params[i % len(params)].layer])
    surroundings = _Nowhere(draws, data or Opener(draws, find), fed, _CPU)
    made = Trained(solver, fed[0], fed[1:], update, Rates(solver), surroundings, Alone())
    _Counted(made, counter).solve()


class _Nowhere(Surroundings):
    """A training that isn't continued: of where it is, nothing is kept."""

    def now(self) -> Moment:
        return Moment({}, {})


class _Silent(Events):
    """Nobody listens."""

    def __init__(self) -> None:
        super().__init__(-1)

    def send(self, event: str, **content: Any) -> None:
        return


class _Counted(Training):
    """A training whose stretches are noted. Its snapshots aren't written, and it never diverges."""

    def __init__(self, made: Trained, counter: Counter) -> None:
        settings = {
            "log": "", "log_bytes": 1 << 62, "record_every": 1, "max_loss": None,
            "snapshot_at_tests": False,
        }  # fmt: skip
        super().__init__(made, _Silent(), Requests(), settings, 0, None)
        self._counter = counter
        _before(made.train, "forward", lambda: counter.stretch(Stage.FORWARD, TRAIN))
        _before(made.update, "apply", lambda: counter.stretch(Stage.UPDATE, TRAIN))

    def _test(self, index: int, net: FedNet) -> None:
        self._counter.stretch(Stage.TEST, index + 1)
        super()._test(index, net)
        self._counter.stretch(Stage.UPDATE, TRAIN)

    def _take_in(self, loss: float) -> None:
        return

    def _snapshot(self) -> None:
        with suppress(DivergedError):
            super()._snapshot()

    def _write_snapshot(self, state: Path, moment: Moment) -> None:
        return


def _watch(net: FedNet, places: Mapping[str, int], counter: Counter) -> None:
    """Lets the counter know which layer of a net is at work, and what its tensors are for."""
    for layer in net.net.running:
        _watch_layer(layer, places[layer.place.name], counter)
    for feed in net.feeds:
        _within(feed, "next", counter, places[feed.name])
    _within(net, "next_tops", counter, min(places.values(), default=0))
    params = net.net.params
    for param in params:
        counter.tag(param.value, Part.PARAMETERS, places[param.layer])
    backward = net.net.backward

    def noted(done: Pass) -> None:
        counter.stretch(Stage.BACKWARD, TRAIN)
        counter.at(None, Part.GRADIENTS)
        backward(done)
        counter.at(None, Part.LAYER_BUFFERS)
        for param in params:
            if param.value.grad is not None:
                counter.tag(param.value.grad, Part.GRADIENTS, places[param.layer])

    net.net.backward = noted  # type: ignore[method-assign]  # watched


#: Calls a function when Backward has the gradient of a tensor (untyped in torch).
hook: Callable[[Tensor, Callable[[Tensor], None]], object] = Tensor.register_hook


def _watch_layer(layer: TorchLayer, place: int, counter: Counter) -> None:
    forward = layer.forward

    def noted(bottoms: Tensors, blobs: Tensors) -> Tensors:
        with counter.inside(place, Part.LAYER_BUFFERS):
            tops = forward(bottoms, blobs)
        for top in tops:
            counter.tag_own(top, Part.ACTIVATIONS, place)
            if top.requires_grad:  # called when Backward comes to this layer
                hook(top, lambda _: counter.at(place, Part.GRADIENTS))
        return tops

    layer.forward = noted  # type: ignore[method-assign]  # watched


def _within(owner: object, name: str, counter: Counter, place: int) -> None:
    """Lets what a method makes be the data of a layer."""
    method = getattr(owner, name)

    def noted() -> Any:
        with counter.inside(place, Part.DATA_PREFETCH):
            return method()

    setattr(owner, name, noted)


def _before(owner: object, name: str, first: Callable[[], None]) -> None:
    """Lets something happen before each call of a method."""
    method = getattr(owner, name)

    def noted(*arguments: Any, **options: Any) -> Any:
        first()
        return method(*arguments, **options)

    setattr(owner, name, noted)


def _filling(graph: Net, opener: Opener) -> Callable[[], dict[str, Tensor]]:
    """Fills the tops that a program would fill."""
    shapes = {
        graph.blobs[top].name: graph.blobs[top].shape
        for node in graph.nodes
        if node.layer.type in FED and not opener.reads(node.layer.type)
        for top in node.tops
    }
    return lambda: {name: torch.zeros(shape) for name, shape in shapes.items()}


def _short(solver: caffe_pb2.SolverParameter) -> caffe_pb2.SolverParameter:
    """The solver of a training of two updates, with all that takes memory in a longer one."""
    short = caffe_pb2.SolverParameter()
    short.CopyFrom(solver)
    short.base_lr, short.lr_policy = 0.01, "fixed"
    short.max_iter = short.snapshot = 2
    short.iter_size = min(2, passes(solver))
    short.test_iter[:] = [min(2, number) for number in solver.test_iter]
    if solver.test_interval:
        short.test_interval = 2
    short.display = 1 if solver.display else 0
    return short


def _net_file(given: Mapping[str, Any]) -> NetFile:
    message = prototxt.parse_net(given["text"])
    state = caffe_pb2.NetState(
        phase=caffe_pb2.Phase.Value(given["phase"]), level=given["level"], stage=given["stages"]
    )
    return NetFile(message, None, state, rules_with(()))


def _graph(file: NetFile, sources: Sources, size: int | None) -> Net:
    layers = file.layers(sources)
    return file.build(layers if size is None else with_batch_size(layers, size))


def _shapes(given: Mapping[str, str]) -> dict[str, Given]:
    """Shapes of records by top: as texts, with an N where they are whole."""
    return {
        top: WholeShape.parse(text[1:]) if text[:1] == ":" else tuple(map(int, text.split("x")))
        for top, text in given.items()
    }
