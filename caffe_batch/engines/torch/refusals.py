"""What the PyTorch engine doesn't run, or not as Caffe does; found before anything runs.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from caffe_batch.engines.torch.fork_types import RUNNING, runs
from caffe_batch.errors import NetError, UnknownLayerError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Rule
from caffe_batch.layers.facts import ReadsTop
from caffe_batch.layers.own import PYTHON_TYPE
from caffe_batch.layers.sides import bottom, top
from caffe_batch.net import Net
from caffe_batch.net.graph import Node

#: The layer types that the engine has.
OWN_TYPES = frozenset({*BUILT_IN, PYTHON_TYPE, *[rule.type for rule in RUNNING]})


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
        if node.rule.has_empty_window(node.site):
            raise _empty_window(node)


def refusals(net: Net) -> Iterator[NetError]:
    """An error for each layer that the engine doesn't run."""
    for node in net.nodes:
        kind = node.layer.type
        if kind != PYTHON_TYPE and not runs(node):
            as_there = f" as in the fork {node.rule.forks[0]}" if kind in BUILT_IN else ""
            yield UnknownLayerError(
                f"the PyTorch engine has no layer type {kind!r}{as_there}",
                layer=node.layer.name,
                hint="It runs the types of Caffe 1.0 and some of forks (docs/forks.md says "
                "which); others need the engine caffe.",
            )
        elif node.rule.fed_by_program:
            yield NetError(
                "a program gives it its data, and here none does: the PyTorch engine doesn't run "
                f"{kind}",
                layer=node.layer.name,
                hint="Give the net a data layer (Data, ImageData, HDF5Data, DummyData, ...).",
            )
        elif node.rule.has_empty_window(node.site):
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
        if node.layer.type not in BUILT_IN
        or _stays_here(node.rule)
        or node.rule.draws(node.site.settings, node.site.phase)
        or node.rule.coupling(node.site).decay is not None  # a pass changes its averages
        or node.rule.has_empty_window(node.site)
    ]
    if wrong:
        raise NetError(
            f"these layers can't be exported: {', '.join(wrong)}",
            hint="What can be: the types of Caffe 1.0 but "
            f"{', '.join(_NOT_EXPORTED)}, unless they draw random numbers or use the "
            "statistics of the batch.",
        )


def _stays_here(rule: Rule) -> bool:
    """Whether no other format has it: it writes a file, or its shapes depend on the numbers."""
    return rule.writes_files or rule.data_decides_size


#: What isn't exported for its type alone; the code of Python layers is the user's.
_NOT_EXPORTED = sorted(
    {name for name, rule in BUILT_IN.items() if _stays_here(rule)} | {PYTHON_TYPE}
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
            if not node.rule.works_in_place:
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
        rule, in_place = writer.rule, any(writer.site.in_place)
        reads = rule.reads_top is ReadsTop.ALWAYS or (
            rule.reads_top is ReadsTop.IN_PLACE and in_place
        )
        if rule.reads_signs and node.rule.keeps_signs:
            reads = False
        if reads and writer.site.backward:
            return writer.layer.name
    return None
