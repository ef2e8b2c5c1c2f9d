"""From nets to bytes: which memory Caffe asks for, and when.

Caffe allocates each side (data, diff) of each blob when it is first touched and frees nothing
while the net lives (syncedmem.cpp). So the peak is the sum of the sides ever touched, each counted
once however many blobs share it. The layers' rules say what they touch; this module adds what the
net and the solver touch themselves, joins shared sides, and sums.

Counted are Caffe's own requests. The CUDA context, the library handles and the granularity of
cudaMalloc are not among them (see ``reserve`` in planning).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from caffe_batch.layers.base import Inner, Mode, count
from caffe_batch.memory.solver_state import SolverSettings
from caffe_batch.net.graph import Net, Node, build

FLOAT_BYTES = 4


class Part(IntEnum):
    """What a piece of memory is for."""

    ACTIVATIONS = 0
    GRADIENTS = 1
    PARAMETERS = 2
    SOLVER_STATE = 3
    LAYER_BUFFERS = 4
    DATA_PREFETCH = 5
    TEST_NET = 6

    @property
    def key(self) -> str:
        """Its name in JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Memory of one layer, in bytes.

    A blob counts for the layer that produces it, a shared parameter for the layer that owns it.

    Attributes:
        net: ``"train"``, or ``"test"`` with the number of the test net.
        parts: Bytes by :class:`Part`, without TEST_NET; they sum to ``bytes``.
    """

    net: str
    name: str
    type: str
    bytes: int
    parts: dict[Part, int]


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
    tally = _Tally(mode)
    params = tally.add_train_net(train, solver)
    for number, net in enumerate(tests):
        tally.add_test_net(net, f"test{number}", train, params, solver)
    unknown = [name for net in (train, *tests) for name in net.unknown_layers]
    return tally.prediction(tuple(dict.fromkeys(unknown)))


class _Tally:
    """A growing list of memory pieces: who owns each, how large, touched when, same as which."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.rows: list[tuple[str, str, str]] = []  # net, layer name, layer type
        self.bytes: list[int] = []
        self.part: list[Part] = []
        self.row: list[int] = []
        self.same_as: dict[int, int] = {}
        self.built: set[int] = set()
        self.run: set[int] = set()
        self.later: set[int] = set()
        self.transient: dict[int, int] = {}

    def piece(self, size_bytes: int, part: Part, row: int) -> int:
        self.bytes.append(size_bytes)
        self.part.append(part)
        self.row.append(row)
        return len(self.bytes) - 1

    def root(self, piece: int) -> int:
        while piece in self.same_as:
            piece = self.same_as[piece]
        return piece

    def join(self, piece: int, other: int) -> None:
        piece, other = self.root(piece), self.root(other)
        if piece != other:
            self.same_as[piece] = other

    def add_train_net(self, net: Net, solver: SolverSettings) -> list[int]:
        """Adds the train net and the solver's state. Returns the data piece of each parameter."""
        first_row = len(self.rows)
        self.rows += [("train", node.layer.name, node.layer.type) for node in net.nodes]
        row_of = {node.layer.name: first_row + i for i, node in enumerate(net.nodes)}
        data, diff = self._parameters(net, row_of)
        self._layers(net, first_row, data, diff, runs=True)
        for i, parameter in enumerate(net.params):
            # ClearParamDiffs and the update touch every diff; the decay reads the weights too.
            # Blob::Update works where the weights lie, and so moves none of them.
            self.run.add(diff[i])
            if self.mode == "cpu" or solver.decays(parameter.decay_mult):
                self.run.add(data[i])
            elements = solver.state_count(count(parameter.shape), parameter.decay_mult, self.mode)
            row = row_of[parameter.layer]
            self.run.add(self.piece(FLOAT_BYTES * elements, Part.SOLVER_STATE, row))
        return data

    def add_test_net(
        self, net: Net, label: str, train: Net, train_params: list[int], solver: SolverSettings
    ) -> None:
        """Adds a test net, whose parameters are the train net's where the layer names agree."""
        net = _without_backward(net)
        first_row = len(self.rows)
        self.rows += [(label, node.layer.name, node.layer.type) for node in net.nodes]
        row_of = {node.layer.name: first_row + i for i, node in enumerate(net.nodes)}
        data, diff = self._parameters(net, row_of)
        trained = {node.layer.name: node.params for node in train.nodes}
        for node in net.nodes:
            for mine, theirs in zip(node.params, trained.get(node.layer.name, ()), strict=False):
                self.join(data[mine], train_params[theirs])
        updates, self.run = self.run, set()
        self._layers(net, first_row, data, diff, runs=solver.test_interval > 0)
        # Tests run before the first update, or else at update test_interval.
        early = solver.test_initialization or solver.test_interval == 1
        self.later |= set() if early else self.run
        self.run = updates | self.run if early else updates

    def _parameters(self, net: Net, row_of: dict[str, int]) -> tuple[list[int], list[int]]:
        data, diff = [], []
        for parameter in net.params:
            size = FLOAT_BYTES * count(parameter.shape)
            row = row_of[parameter.layer]
            data.append(self.piece(size, Part.PARAMETERS, row))
            diff.append(self.piece(size, Part.PARAMETERS, row))
            if self.mode == "cpu":
                self.built.add(data[-1])  # the fillers write on the host
        return data, diff

    def _layers(
        self, net: Net, first_row: int, data: list[int], diff: list[int], *, runs: bool,
        row: int | None = None, idle: int = 0,
    ) -> dict[str, int]:  # fmt: skip
        """Adds the blobs and layers of a net.

        Args:
            net: The net; an inner (unrolled) one gives all its memory to ``row``.
            first_row: Row of its first layer, where it has rows of its own.
            data, diff: Pieces of its parameters.
            runs: Whether its layers ever run, or are only built.
            row: The row that takes everything, for inner nets.
            idle: How many layers at its end are built but never run.

        Returns:
            Piece of each side of each blob, ``"NAME.data"`` and ``"NAME.diff"``.
        """
        producer: dict[int, int] = {}
        for i, node in enumerate(net.nodes):
            for top in node.tops:
                producer.setdefault(top, first_row + i if row is None else row)
        blob_data, blob_diff = [], []
        inner = row is not None
        for index, blob in enumerate(net.blobs):
            size, owner = FLOAT_BYTES * count(blob.shape), producer[index]
            part = Part.LAYER_BUFFERS if inner else Part.ACTIVATIONS
            blob_data.append(self.piece(size, part, owner))
            part = Part.LAYER_BUFFERS if inner else Part.GRADIENTS
            blob_diff.append(self.piece(size, part, owner))
        last = len(net.nodes) - idle
        for i, node in enumerate(net.nodes):
            node_row = first_row + i if row is None else row
            pieces = _NodePieces(node, blob_data, blob_diff, data, diff)
            self._layer(node, node_row, pieces, runs=runs and i < last)
        named = {f"{blob.name}.data": blob_data[i] for i, blob in enumerate(net.blobs)}
        named.update({f"{blob.name}.diff": blob_diff[i] for i, blob in enumerate(net.blobs)})
        return named

    def _layer(self, node: Node, row: int, pieces: _NodePieces, *, runs: bool) -> None:
        memory = node.rule.memory(node.site, self.mode)
        for buffer in memory.buffers:
            part = Part.DATA_PREFETCH if buffer.prefetch else Part.LAYER_BUFFERS
            size = buffer.itemsize * buffer.count * buffer.copies
            pieces.own[f"{buffer.name}.data"] = self.piece(size, part, row)
            pieces.own[f"{buffer.name}.diff"] = self.piece(size, part, row)
        inner = node.rule.inner(node.site)
        if inner is not None:
            self._inner(node, inner, row, pieces, runs=runs)
        for side, other in memory.shares:
            self.join(pieces[side], pieces[other])
        self.built.update(map(pieces.__getitem__, memory.build))
        if not runs:
            return
        self.run.update(map(pieces.__getitem__, memory.forward))
        if node.site.backward:
            for side, other in memory.backward_shares:
                self.join(pieces[side], pieces[other])
            self.run.update(map(pieces.__getitem__, memory.backward))
        self._loss_weights(node, pieces)
        if memory.transient:
            self.transient[row] = FLOAT_BYTES * memory.transient

    def _loss_weights(self, node: Node, pieces: _NodePieces) -> None:
        """A top with a loss weight keeps it in its diff; Forward multiplies data and diff."""
        for i, weight in enumerate(node.loss):
            if weight:
                self.run.update((pieces[f"top{i}.data"], pieces[f"top{i}.diff"]))
                if self.mode == "cpu":
                    self.built.add(pieces[f"top{i}.diff"])

    def _inner(
        self, node: Node, inner: Inner, row: int, pieces: _NodePieces, *, runs: bool
    ) -> None:
        net = build(inner.layers, phase="TEST", name=node.layer.name)
        by_name = {parameter.name: i for i, parameter in enumerate(net.params)}
        order = [by_name[name] for name in inner.parameters]
        data, diff = [0] * len(order), [0] * len(order)
        for outer, position in enumerate(order):
            data[position] = pieces[f"param{outer}.data"]
            diff[position] = pieces[f"param{outer}.diff"]
        backward = node.site.backward
        if not backward:
            net = _without_backward(net)
        named = self._layers(net, 0, data, diff, runs=runs, row=row, idle=inner.idle)
        pieces.own.update({f"inner/{name}": piece for name, piece in named.items()})

    def prediction(self, unknown: tuple[str, ...]) -> Prediction:
        """The sums. A row's parts and the totals count each joined piece once, at its root."""
        built = {self.root(piece) for piece in self.built}
        updated = built | {self.root(piece) for piece in self.run}
        peak = updated | {self.root(piece) for piece in self.later}
        transient = max(self.transient.values(), default=0)
        by_row: list[dict[Part, int]] = [{} for _ in self.rows]
        for piece in peak:
            parts, part = by_row[self.row[piece]], self.part[piece]
            parts[part] = parts.get(part, 0) + self.bytes[piece]
        if self.transient:
            # Freed before the next layer runs: only the largest one is ever there at a time.
            row = max(self.transient, key=self.transient.__getitem__)
            parts = by_row[row]
            parts[Part.LAYER_BUFFERS] = parts.get(Part.LAYER_BUFFERS, 0) + self.transient[row]
        layers = tuple(
            LayerBytes(*names, bytes=sum(parts.values()), parts=parts)
            for names, parts in zip(self.rows, by_row, strict=True)
        )
        return Prediction(
            mode=self.mode,
            after_build_bytes=sum(self.bytes[piece] for piece in built),
            after_two_updates_bytes=sum(self.bytes[piece] for piece in updated) + transient,
            peak_bytes=sum(layer.bytes for layer in layers),
            parts=_total_parts(layers),
            layers=layers,
            unknown_layers=unknown,
        )


class _NodePieces:
    """Finds the memory piece of a side as rules write it: ``"bottom0.data"``, ``"prob_.diff"``."""

    __slots__ = ("blob_data", "blob_diff", "node", "own", "param_data", "param_diff")

    def __init__(
        self, node: Node, blob_data: list[int], blob_diff: list[int], param_data: list[int],
        param_diff: list[int],
    ) -> None:  # fmt: skip
        self.node = node
        self.blob_data, self.blob_diff = blob_data, blob_diff
        self.param_data, self.param_diff = param_data, param_diff
        self.own: dict[str, int] = {}

    def __getitem__(self, side: str) -> int:
        own = self.own.get(side)
        if own is not None:
            return own
        kind, index, is_data = _parse_side(side)
        if kind == "param":
            return (self.param_data if is_data else self.param_diff)[self.node.params[index]]
        blob = (self.node.bottoms if kind == "bottom" else self.node.tops)[index]
        return (self.blob_data if is_data else self.blob_diff)[blob]


@lru_cache(maxsize=None)
def _parse_side(side: str) -> tuple[str, int, bool]:
    blob, _, which = side.rpartition(".")
    kind = blob.rstrip("0123456789")
    return kind, int(blob[len(kind) :]), which == "data"


def _without_backward(net: Net) -> Net:
    nodes = [replace(node, site=replace(node.site, backward=False)) for node in net.nodes]
    return replace(net, nodes=tuple(nodes))


def _total_parts(layers: Iterable[LayerBytes]) -> dict[Part, int]:
    totals = dict.fromkeys(Part, 0)
    for layer in layers:
        for part, size in layer.parts.items():
            totals[part if layer.net == "train" else Part.TEST_NET] += size
    return totals
