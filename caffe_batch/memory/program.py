"""What the layers of a net do to memory, as steps: building, Forward, Backward.

The layers' rules say which sides each pass touches and which pointers it sets; this module applies
them to the net's blobs and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_batch.errors import NetError, Option, ShapeError
from caffe_batch.layers import sides as of
from caffe_batch.layers.base import Inner, Memory, Rule, Site, count
from caffe_batch.layers.sides import Side
from caffe_batch.memory.build import NVCAFFE_BATCHES, Build
from caffe_batch.memory.ledger import Ledger, Part, Step
from caffe_batch.net.graph import Net, Node, build

FLOAT_BYTES = 4
HALF_BYTES = 2

Slot = tuple[int, int]  # the data side and the diff side of a parameter


@dataclass(frozen=True)
class Params:
    """Sides of a net's parameters.

    Every layer is built with parameters of its own. Once all layers are built, those that share an
    earlier layer's parameters are pointed to its memory (Net::ShareWeights), and their own is
    freed.

    Attributes:
        owners: One slot for each parameter of the net.
        rows: The row of each owner.
        of_layer: Name and slots of each layer.
        shares: Pointers that sharing sets.
    """

    owners: list[Slot]
    rows: list[int]
    of_layer: list[tuple[str, list[Slot]]]
    shares: list[tuple[int, int]]


class Program:
    """The steps of one or more nets: what building, Forward and Backward do to memory.

    ``backward`` is in the order of the layers; Caffe runs it from the last layer to the first.

    Args:
        ledger: Where the memory is accounted for.
        build: The build of Caffe.
        half: Whether NVCaffe keeps activations and gradients in half precision; it then also keeps
            a copy of the weights in half precision.
    """

    def __init__(self, ledger: Ledger, build: Build = Build.CAFFE, *, half: bool = False) -> None:
        self.ledger = ledger
        self.caffe_build = build
        self.half = half
        self.uncertain_bytes = 0  # how much of what is added may turn out not to be allocated
        self.build: list[Step] = []
        self.forward: list[Step] = []
        self.backward: list[Step] = []
        self.partial: list[str] = []  # layers that take more than their rules say
        self.at_most: list[str] = []  # layers that may take less
        # What equal layers in equal sites touch (deep nets repeat themselves).
        self._memories: dict[tuple[Rule, Site], Memory] = {}

    def add_net(
        self, net: Net, label: str, *, backward: bool = True, trained: Params | None = None
    ) -> Params:
        """Add a net of the solver.

        Args:
            net: The net.
            label: What its rows are called.
            backward: Whether its Backward ever runs.
            trained: For a test net, the train net's parameters, which replace its own where the
                layer names agree (Net::ShareTrainedLayersWith, before the first test).
        """
        ledger = self.ledger
        first_row = len(ledger.rows)
        ledger.rows += [(label, node.layer.name, node.layer.type) for node in net.nodes]
        rows = range(first_row, len(ledger.rows))
        params = self._add_params(net, rows)
        if trained is not None:
            self.forward.append(Step(first_row, _trained_shares(params, trained), []))
        self._add_layers(net, params, rows, backward=backward)
        return params

    def _add_params(self, net: Net, rows: Sequence[int], given: Sequence[Slot] = ()) -> Params:
        """Add the parameters of a net's layers.

        Args:
            net: The net.
            rows: The row in which each layer is counted.
            given: For a net inside a recurrent layer, the owners' slots; everything else is a
                buffer.
        """
        params = Params([], [], [], [])
        part = Part.LAYER_BUFFERS if given else Part.PARAMETERS
        side = self.ledger.side
        for node, row in zip(net.nodes, rows, strict=True):
            slots: list[Slot] = []
            for index in node.params:
                elements = count(net.params[index].shape)
                size = FLOAT_BYTES * elements
                owns = index == len(params.owners)  # the first layer with a parameter does
                if owns and given:
                    slot = given[index]
                else:
                    copy = HALF_BYTES * elements if self.half else 0
                    slot = (side(size + copy, part, row), side(size, part, row))
                if owns:
                    params.owners.append(slot)
                    params.rows.append(row)
                else:
                    params.shares.extend(zip(slot, params.owners[index], strict=True))
                slots.append(slot)
            params.of_layer.append((node.layer.name, slots))
        return params

    def _add_layers(
        self, net: Net, params: Params, rows: Sequence[int], *,
        backward: bool, inner: bool = False, idle: int = 0,
    ) -> dict[Side, int]:  # fmt: skip
        """Add the blobs and steps of a net's layers.

        Args:
            net: The net.
            params: Its parameters.
            rows: The row in which each layer is counted.
            backward: Whether its Backward runs.
            inner: Whether it is a net inside a recurrent layer, all of whose blobs are that layer's
                buffers.
            idle: How many layers at its end are built but never run.

        Returns:
            Both sides of each blob of an inner net; empty for other nets.
        """
        data_part = Part.LAYER_BUFFERS if inner else Part.ACTIVATIONS
        diff_part = Part.LAYER_BUFFERS if inner else Part.GRADIENTS
        producer: dict[int, int] = {}
        for node, row in zip(net.nodes, rows, strict=True):
            for number in node.tops:
                producer.setdefault(number, row)
        side = self.ledger.side
        data, diff = [], []
        itemsize = HALF_BYTES if self.half else FLOAT_BYTES
        for index, blob in enumerate(net.blobs):
            size, row = itemsize * count(blob.shape), producer[index]
            data.append(side(size, data_part, row))
            diff.append(side(size, diff_part, row))
        last = len(net.nodes) - idle
        for i, node in enumerate(net.nodes):
            sides = _NodeSides(self.ledger, node, data, diff, params.of_layer[i][1])
            runs = i < last
            self._add_layer(node, rows[i], sides, runs=runs, backward=backward and runs)
        if params.shares:
            self.build.append(Step(rows[0], params.shares, []))
        if not inner:
            return {}
        names = [of.inner(blob.name) for blob in net.blobs]
        found = {name.data: data[i] for i, name in enumerate(names)}
        return found | {name.diff: diff[i] for i, name in enumerate(names)}

    def _add_layer(
        self, node: Node, row: int, sides: _NodeSides, *, runs: bool, backward: bool
    ) -> None:
        backward = backward and node.site.backward
        memory = self._memory(node)
        for buffer in memory.buffers:
            part, copies = Part.LAYER_BUFFERS, buffer.copies
            if buffer.prefetch:
                part = Part.DATA_PREFETCH
                copies = NVCAFFE_BATCHES if self.caffe_build is Build.NVCAFFE else copies
            itemsize = copies * buffer.itemsize
            either = buffer.either and (itemsize * buffer.either[0], itemsize * buffer.either[1])
            sides.buffers[buffer.name] = (itemsize * buffer.count, part, row, copies, either)
        if memory.partial:
            self.partial.append(node.layer.name)
        if memory.at_most:
            self.at_most.append(node.layer.name)
            self.uncertain_bytes += FLOAT_BYTES * memory.at_most
        unrolled = node.rule.inner(node.site)
        if unrolled is not None:
            inside = Program(self.ledger, self.caffe_build, half=self.half)
            inside.add_inner(node, unrolled, row, sides, backward=backward)
        shares = [(sides[side], sides[other]) for side, other in memory.shares]
        built = [sides[side] for side in memory.build]
        least, most = memory.workspace
        if most and self.caffe_build is Build.CUDNN:  # NVCaffe's convolutions share one
            built.append(self.ledger.side(most, Part.LAYER_BUFFERS, row))
            self.uncertain_bytes += most - least
        if self.ledger.mode == "cpu" and node.rule.fills_parameters:
            built += [data for data, _ in sides.params]
        forward = [sides[side] for side in memory.forward]
        for i, weight in enumerate(node.loss):
            if weight:  # kept in the top's diff; Forward multiplies data and diff
                forward += (sides[of.top(i).data], sides[of.top(i).diff])
                if self.ledger.mode == "cpu":
                    built.append(sides[of.top(i).diff])
        if unrolled is not None:
            self.build += inside.build
        self.build.append(Step(row, shares, built))
        if runs:
            self.forward.append(Step(row, shares, forward, FLOAT_BYTES * memory.transient))
        if backward:
            shares = [(sides[side], sides[other]) for side, other in memory.backward_shares]
            self.backward.append(Step(row, shares, [sides[side] for side in memory.backward]))
        if unrolled is not None:
            self.forward += inside.forward if runs else ()
            self.backward += inside.backward if backward else ()

    def _memory(self, node: Node) -> Memory:
        if not self.caffe_build.uses_cudnn and getattr(node.site.settings, "engine", "") == "CUDNN":
            raise NetError(
                "a Caffe built without cuDNN doesn't know engine: CUDNN",
                layer=node.layer.name,
                hint=[
                    "Remove the engine; or, if your Caffe has cuDNN, give ",
                    Option("build", "cudnn"),
                    ".",
                ],
            )
        known = self._memories.get((node.rule, node.site))
        if known is not None:
            return known
        try:
            memory = node.rule.memory(node.site, self.ledger.mode)
            memory = node.rule.cudnn(node.site, memory) if self.caffe_build.uses_cudnn else memory
            self._memories[node.rule, node.site] = memory
            return memory
        except ShapeError as error:
            if error.layer is not None:
                raise
            raise ShapeError(
                error.message_parts, layer=node.layer.name, hint=error.hint_parts
            ) from None

    def add_inner(
        self, node: Node, unrolled: Inner, row: int, sides: _NodeSides, *, backward: bool
    ) -> None:
        """Add the net inside a recurrent layer, and its blobs to the layer's own sides."""
        net = build(unrolled.layers, phase="TEST", name=node.layer.name)
        outer = {name: i for i, name in enumerate(unrolled.parameters)}
        rows = [row] * len(net.nodes)
        given = [sides.params[outer[parameter.name]] for parameter in net.params]
        params = self._add_params(net, rows, given)
        if node.site.phase == "TEST":  # RecurrentLayer::Forward shares them again, only in TEST
            self.forward.append(Step(row, params.shares, []))
        sides.own |= self._add_layers(
            net, params, rows, backward=backward, inner=True, idle=unrolled.idle
        )


_BufferSide = tuple[int, Part, int, int, tuple[int, int] | None]
"""Bytes, part, row, requests, and two sizes of which the larger one counts, if any."""


class _NodeSides:
    """Finds the ledger's number of a side that a rule names.

    Attributes:
        own: The numbers of the layer's own sides.
        buffers: What the ledger needs to know about each buffer; its sides are added on first use.
    """

    __slots__ = ("buffers", "data", "diff", "ledger", "node", "own", "params")

    def __init__(
        self, ledger: Ledger, node: Node, data: list[int], diff: list[int], params: list[Slot]
    ) -> None:
        self.ledger, self.node = ledger, node
        self.data, self.diff, self.params = data, diff, params
        self.own: dict[Side, int] = {}
        self.buffers: dict[str, _BufferSide] = {}

    def __getitem__(self, side: Side) -> int:
        owner, index, name, is_diff = side
        if owner == "bottom":
            return (self.diff if is_diff else self.data)[self.node.bottoms[index]]
        if owner == "top":
            return (self.diff if is_diff else self.data)[self.node.tops[index]]
        if owner == "param":
            return self.params[index][is_diff]
        if side not in self.own:
            size, part, row, requests, either = self.buffers[name]
            self.own[side] = self.ledger.side(size, part, row, requests=requests, either=either)
        return self.own[side]


def _trained_shares(mine: Params, trained: Params) -> list[tuple[int, int]]:
    """Pointers that Net::ShareTrainedLayersWith sets: data, by the names of the layers."""
    sources = dict(trained.of_layer)
    return [
        (data, source)
        for layer, slots in mine.of_layer
        for (data, _), (source, _) in zip(slots, sources.get(layer, ()), strict=False)
    ]
