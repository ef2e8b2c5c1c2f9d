"""What the PyTorch engine doesn't run, or not as Caffe does; found before anything runs.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from caffe_batch.errors import NetError, Text, UnknownLayerError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.pooling import PoolingSettings, pooled_shape, pooling_windows
from caffe_batch.layers.sides import bottom, top
from caffe_batch.net import Net
from caffe_batch.net.graph import Node

#: Nobody feeds these in a training.
_UNFED = {
    "Input": "a program fills its tops, and here none does",
    "MemoryData": "a program hands it arrays, and here none does",
}

#: Code of the user's, a file that is written, and shapes that depend on the numbers.
_NOT_EXPORTED = frozenset({"Filter", "HDF5Output", "Python"})

#: The types whose numbers in place are defined in Caffe, and which this engine imitates.
IN_PLACE = frozenset({
    "BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Eltwise", "Exp", "LRN", "Log", "MVN",
    "PReLU", "Power", "ReLU", "Scale", "Sigmoid", "Softmax", "Swish", "TanH",
})  # fmt: skip

#: The types whose Backward in Caffe reads its own top, so that it must not have been overwritten.
_READS_TOP = frozenset({
    "ELU", "Exp", "LRN", "MVN", "Power", "Sigmoid", "Softmax", "Swish", "TanH",
})  # fmt: skip
#: Those that read their top if it is their bottom as well.
_READS_TOP_IN_PLACE = _READS_TOP | {"BNLL", "Clip", "Eltwise", "Log", "ReLU"}
#: What leaves the signs as they are, which is all that a ReLU wants to know.
_KEEPS_SIGNS = frozenset({"Dropout", "ReLU", "TanH"})


def check_runs(net: Net) -> None:
    """Check that the engine runs every layer of a net.

    Raises:
        NetError: It doesn't; names the layer and the reason.
    """
    for error in refusals(net):
        raise error


def check_settings(net: Net) -> None:
    """Check that the engine runs the layers of a net whose types it has, if they are fed.

    Raises:
        NetError: It doesn't; names the layer and the reason.
    """
    for node in net.nodes:
        if node.layer.type == "Pooling" and _has_empty_window(node):
            raise _empty_window(node)


def refusals(net: Net) -> Iterator[NetError]:
    """An error for each layer that the engine doesn't run."""
    for node in net.nodes:
        kind = node.layer.type
        if kind in _UNFED:
            hint: Text = "Give the net a data layer (Data, ImageData, HDF5Data, DummyData, ...)."
            yield NetError(
                f"{_UNFED[kind]}: the PyTorch engine doesn't run {kind}",
                layer=node.layer.name, hint=hint,
            )  # fmt: skip
        elif kind not in BUILT_IN and kind != "Python":
            yield UnknownLayerError(
                f"the PyTorch engine has no layer type {kind!r}",
                layer=node.layer.name,
                hint="It runs the types of Caffe 1.0; others need the engine caffe.",
            )
        elif kind == "Pooling" and _has_empty_window(node):
            yield _empty_window(node)


def _empty_window(node: Node) -> NetError:
    return NetError(
        "its last window lies beyond the input, where Caffe itself gives -FLT_MAX (MAX) or NaN "
        "(AVE): the PyTorch engine doesn't run that",
        layer=node.layer.name,
        hint="Use a stride no larger than the kernel, or round_mode: FLOOR.",
    )


def check_exports(net: Net) -> None:
    """Check that a net for inference can be written in another format.

    Raises:
        NetError: It can't; names every layer in the way, with its type.
    """
    wrong = [
        f"{node.layer.name!r} ({node.layer.type})"
        for node in net.nodes
        if node.layer.type in _NOT_EXPORTED
        or node.layer.type not in BUILT_IN
        or node.rule.draws(node.site.settings, node.site.phase)
        or node.rule.coupling(node.site).decay is not None  # a pass changes its averages
        or (node.layer.type == "Pooling" and _has_empty_window(node))
    ]
    if wrong:
        raise NetError(
            f"these layers can't be exported: {', '.join(wrong)}",
            hint="What can be: the types of Caffe 1.0 but "
            f"{', '.join(sorted(_NOT_EXPORTED))}, unless they draw random numbers or use the "
            "statistics of the batch.",
        )


class Departure(NamedTuple):
    """A layer that is calculated otherwise than in Caffe.

    Attributes:
        layer: Its name.
        explanation: What Caffe does, and what this engine does; a sentence.
    """

    layer: str
    explanation: str


def departures(net: Net) -> Iterator[Departure]:
    """What Caffe only does because of where its memory lies, and this engine doesn't imitate."""
    together = [{i} for i in range(len(net.blobs))]  # the blobs of one memory, so far
    writers: dict[int, list[Node]] = {}
    constants: set[int] = set()
    states: set[int] = set()  # what recurrent layers read in Backward
    for node in net.nodes:
        name = node.layer.name
        if any(node.site.in_place):
            blob = node.bottoms[0]
            if node.layer.type not in IN_PLACE:
                yield Departure(
                    name,
                    f"in place, Caffe's {node.layer.type} overwrites its input while it still "
                    "reads it; PyTorch calculates as if the top were another blob",
                )
            elif together[blob] & constants:
                yield Departure(
                    name,
                    "Caffe changes a constant in place, and again in each pass; in PyTorch each "
                    "pass begins with the constant",
                )
            elif node.site.phase == "TRAIN" and (reader := _overwritten(writers[blob], node)):
                yield Departure(
                    name,
                    f"it overwrites the top of layer {reader!r}, which Caffe reads again for the "
                    "gradient; PyTorch's gradient is the derivative",
                )
            elif len(together[blob]) > 1 or together[blob] & states:
                yield Departure(
                    name,
                    "it works in place on memory that blobs of other names share, so Caffe "
                    "changes those too; PyTorch doesn't",
                )
        for blob in node.tops:
            writers.setdefault(blob, []).append(node)
        constants |= {node.tops[i] for i in node.rule.coupling(node.site).lasting}
        if node.rule.recurrent:
            one_step = node.site.bottoms[0][0] == 1  # its only output is the top itself
            states |= set(node.tops if one_step else node.tops[1:])
        sides = {bottom(i).data: blob for i, blob in enumerate(node.bottoms)}
        sides |= {top(i).data: blob for i, blob in enumerate(node.tops)}
        for one, other in node.rule.memory(node.site, "cpu").shares:
            if one in sides and other in sides:
                union = together[sides[one]] | together[sides[other]]
                for blob in union:
                    together[blob] = union


def _overwritten(writers: Sequence[Node], node: Node) -> str | None:
    """The earlier layer whose Backward reads what this one overwrites in place."""
    for writer in writers:
        kind, in_place = writer.layer.type, any(writer.site.in_place)
        reads = kind in (_READS_TOP_IN_PLACE if in_place else _READS_TOP)
        if kind == "ReLU" and node.layer.type in _KEEPS_SIGNS:
            reads = False
        if reads and writer.site.backward:
            return writer.layer.name
    return None


def _has_empty_window(node: Node) -> bool:
    """Whether a window of the pooling covers nothing; only if the stride exceeds the kernel."""
    s: PoolingSettings = node.site.settings
    shape = node.site.bottoms[0]
    windows, pooled = pooling_windows(s, shape), pooled_shape(s, shape)
    return any(
        (pooled[2 + i] - 1) * windows.stride[i] - windows.pad[i] >= shape[2 + i] for i in range(2)
    )
