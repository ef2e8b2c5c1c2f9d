"""What the layers of a net do to memory, as steps: building, Forward, Backward.

The layers' rules say which sides each pass touches and which pointers it sets; here they meet the
net's blobs and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from caffe_batch.layers.base import Inner, count
from caffe_batch.memory.ledger import Ledger, Part, Step
from caffe_batch.net.graph import Net, Node, build

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Params:
    """Sides of a net's parameters, and where each layer's are."""

    data: list[int]
    diff: list[int]
    of_layer: dict[str, tuple[int, ...]]
    rows: list[int]


class Program:
    """The steps of one or more nets: what building, Forward and Backward do to memory.

    ``backward`` is in the order of the layers; Caffe runs it from the last to the first.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.build: list[Step] = []
        self.forward: list[Step] = []
        self.backward: list[Step] = []

    def add_net(
        self, net: Net, label: str, *, backward: bool = True, trained: Params | None = None
    ) -> Params:
        """Adds a net of the solver.

        Args:
            net: The net.
            label: What its rows are called.
            backward: Whether its Backward ever runs.
            trained: For test nets: the train net's parameters, which stand in for its own where
                the layer names agree (Net::ShareTrainedLayersWith, before the first test).
        """
        ledger = self.ledger
        first_row = len(ledger.rows)
        ledger.rows += [(label, node.layer.name, node.layer.type) for node in net.nodes]
        rows = list(range(first_row, len(ledger.rows)))
        row_of = {node.layer.name: row for node, row in zip(net.nodes, rows, strict=True)}
        params = Params(
            [], [], {node.layer.name: node.params for node in net.nodes},
            [row_of[parameter.layer] for parameter in net.params],
        )  # fmt: skip
        for parameter, row in zip(net.params, params.rows, strict=True):
            size = FLOAT_BYTES * count(parameter.shape)
            params.data.append(ledger.side(size, Part.PARAMETERS, row))
            params.diff.append(ledger.side(size, Part.PARAMETERS, row))
        if ledger.mode == "cpu":
            self.build.append(Step(first_row, [], params.data))  # the fillers write on the host
        if trained is not None:
            self.forward.append(Step(first_row, _shared_params(params, trained), []))
        self._add_layers(net, params, rows, backward=backward)
        return params

    def _add_layers(
        self, net: Net, params: Params, rows: Sequence[int], *,
        backward: bool, inner: bool = False, idle: int = 0,
    ) -> dict[str, int]:  # fmt: skip
        """Adds the blobs and steps of a net's layers.

        Args:
            net: The net.
            params: Its parameters.
            rows: The row that each layer counts for.
            backward: Whether its Backward runs.
            inner: Whether it is a net inside a recurrent layer: all of it is that layer's buffers.
            idle: How many layers at its end are built but never run.

        Returns:
            Side of each blob by name: ``"NAME.data"``, ``"NAME.diff"``.
        """
        data_part = Part.LAYER_BUFFERS if inner else Part.ACTIVATIONS
        diff_part = Part.LAYER_BUFFERS if inner else Part.GRADIENTS
        producer: dict[int, int] = {}
        for node, row in zip(net.nodes, rows, strict=True):
            for top in node.tops:
                producer.setdefault(top, row)
        side = self.ledger.side
        data, diff = [], []
        for index, blob in enumerate(net.blobs):
            size, row = FLOAT_BYTES * count(blob.shape), producer[index]
            data.append(side(size, data_part, row))
            diff.append(side(size, diff_part, row))
        last = len(net.nodes) - idle
        for i, node in enumerate(net.nodes):
            sides = _NodeSides(node, data, diff, params)
            runs = i < last
            self._add_layer(node, rows[i], sides, runs=runs, backward=backward and runs)
        named = {f"{blob.name}.data": data[i] for i, blob in enumerate(net.blobs)} if inner else {}
        named.update({f"{blob.name}.diff": diff[i] for i, blob in enumerate(net.blobs)})
        return named

    def _add_layer(
        self, node: Node, row: int, sides: _NodeSides, *, runs: bool, backward: bool
    ) -> None:
        backward = backward and node.site.backward
        memory = node.rule.memory(node.site, self.ledger.mode)
        for buffer in memory.buffers:
            part = Part.DATA_PREFETCH if buffer.prefetch else Part.LAYER_BUFFERS
            size = buffer.copies * buffer.itemsize * buffer.count
            sides.own[f"{buffer.name}.data"] = self.ledger.side(size, part, row)
            sides.own[f"{buffer.name}.diff"] = self.ledger.side(size, part, row)
        unrolled = node.rule.inner(node.site)
        inside = Program(self.ledger)
        if unrolled is not None:
            inside.add_inner(node, unrolled, row, sides, backward=backward)
        shares = [(sides[side], sides[other]) for side, other in memory.shares]
        built = [sides[side] for side in memory.build]
        forward = [sides[side] for side in memory.forward]
        for i, weight in enumerate(node.loss):
            if weight:  # kept in the top's diff; Forward multiplies data and diff
                forward += (sides[f"top{i}.data"], sides[f"top{i}.diff"])
                if self.ledger.mode == "cpu":
                    built.append(sides[f"top{i}.diff"])
        self.build += [*inside.build, Step(row, shares, built)]
        if runs:
            transient = FLOAT_BYTES * memory.transient
            self.forward += [Step(row, shares, forward, transient), *inside.forward]
        if backward:
            shares = [(sides[side], sides[other]) for side, other in memory.backward_shares]
            touches = [sides[side] for side in memory.backward]
            self.backward += [Step(row, shares, touches), *inside.backward]

    def add_inner(
        self, node: Node, unrolled: Inner, row: int, sides: _NodeSides, *, backward: bool
    ) -> None:
        """Adds the net inside a recurrent layer; its blobs get names ``inner/NAME.SIDE``."""
        net = build(unrolled.layers, phase="TEST", name=node.layer.name)
        outer = {name: i for i, name in enumerate(unrolled.parameters)}
        order = [outer[parameter.name] for parameter in net.params]
        params = Params(
            [sides[f"param{i}.data"] for i in order],
            [sides[f"param{i}.diff"] for i in order],
            {},
            [],
        )
        rows = [row] * len(net.nodes)
        named = self._add_layers(
            net, params, rows, backward=backward, inner=True, idle=unrolled.idle
        )
        sides.own.update({f"inner/{name}": side for name, side in named.items()})


class _NodeSides:
    """Finds the side that a rule writes as ``"bottom0.data"`` or ``"prob_.diff"``."""

    __slots__ = ("data", "diff", "node", "own", "params")

    def __init__(self, node: Node, data: list[int], diff: list[int], params: Params) -> None:
        self.node, self.data, self.diff, self.params = node, data, diff, params
        self.own: dict[str, int] = {}

    def __getitem__(self, side: str) -> int:
        own = self.own.get(side)
        if own is not None:
            return own
        kind, index, is_data = _parse_side(side)
        if kind == "param":
            params = self.params
            return (params.data if is_data else params.diff)[self.node.params[index]]
        blob = (self.node.bottoms if kind == "bottom" else self.node.tops)[index]
        return (self.data if is_data else self.diff)[blob]


@cache
def _parse_side(side: str) -> tuple[str, int, bool]:
    blob, _, which = side.rpartition(".")
    kind = blob.rstrip("0123456789")
    return kind, int(blob[len(kind) :]), which == "data"


def _shared_params(mine: Params, trained: Params) -> list[tuple[int, int]]:
    return [
        (mine.data[a], trained.data[b])
        for layer, indices in mine.of_layer.items()
        for a, b in zip(indices, trained.of_layer.get(layer, ()), strict=False)
    ]
