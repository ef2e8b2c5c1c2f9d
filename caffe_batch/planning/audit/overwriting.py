"""What layers overwrite: gradients, loss weights and constants that a later pass finds changed.

In one pass over the whole batch much of this doesn't show. In k passes the second one finds what
the first has left, or a gradient that doesn't scale with the loss is divided by k all the same.
Found by `make audit-search`; each from the Backward of the layer in Caffe's sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_batch.layers.base import Coupling
from caffe_batch.net.graph import Node
from caffe_batch.net.samples import SampleFlow
from caffe_batch.planning.audit.both_sizes import BothSizes
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict

_OWN_TOP = "Give its top a name of its own."


def of_overwriting(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """What one layer overwrites, or has overwritten, to the harm of the training."""
    node, coupling = flow.small, flow.coupling
    if node.site.backward and any(node.site.param_need[i] for i in coupling.overwrites):
        yield from _parameters(split, flow)
    if coupling.rereads and _goes_back_in_place(node):
        yield Finding(
            Cause.SPOILED_GRADIENT, node.layer.name, Verdict.DIFFERENT,
            f"A {node.layer.type} layer in place overwrites the gradient that comes in before it "
            "has read it to the end. What it hands on doesn't scale with the loss, so the mean "
            "over the passes isn't what the whole batch gives.",
            offer=_OWN_TOP,
        )  # fmt: skip
    for bottom in coupling.scribbles:
        yield from _scribbled(split, node, bottom)
    if split.iter_size > 1:
        yield from _loss_weights(split, node)
        yield from _constants(split, node, coupling)


def _parameters(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    if split.iter_size > 1:
        last = (
            f"Each pass overwrites the gradient of its parameter instead of adding to it: of the "
            f"{split.iter_size} passes of an update the last one counts, divided by "
            f"{split.iter_size}."
        )
        offer = (
            f"A batch_size of 2 or more adds up{_even_batches(split)}."
            if split.per_gpu == 1 and not flow.whole.overwrites
            else "A batch_size that takes the update in one pass, or the parameter in a layer "
            "that adds up, such as Bias or Scale."
        )
        yield Finding(
            Cause.OVERWRITTEN_GRADIENT, flow.small.layer.name, Verdict.DIFFERENT, last, offer=offer
        )


def _even_batches(split: BothSizes) -> str:
    """Where 2 doesn't divide the effective batch: the nearest ones that it does."""
    samples = split.per_gpu * split.parts
    if samples % (2 * split.gpus) == 0:
        return ""
    near = [samples - split.gpus, samples + split.gpus]
    return f": an effective batch of {' or '.join(str(each) for each in near)} takes it"


def _goes_back_in_place(node: Node) -> bool:
    site = node.site
    return site.backward and any(site.in_place[:1]) and site.bottom_need[0]


def _scribbled(split: BothSizes, node: Node, bottom: int) -> Iterator[Finding]:
    """Numbers that Forward leaves in a gradient, where no Backward of its own replaces them."""
    site, memory = node.site, split.blob_memory
    if site.backward and site.bottom_need[bottom]:
        return
    group = memory.diff[node.bottoms[bottom]]
    if any(reads for _, reads, _ in memory.readers_and_writers(group)):
        yield Finding(
            Cause.SPOILED_GRADIENT, node.layer.name, Verdict.DIFFERENT,
            f"Its Forward computes in the gradient of bottom {bottom}, and its Backward, which "
            "would replace that, doesn't run. The layers before it take that for a gradient, and "
            "it doesn't scale with the loss.",
            offer="Leave it out of the TRAIN net (include { phase: TEST }), or give it a "
            "loss_weight other than 0.",
        )  # fmt: skip


def _loss_weights(split: BothSizes, node: Node) -> Iterator[Finding]:
    """A loss_weight stands in the gradient of its top, written once when the net is built."""
    for place, weight in enumerate(node.loss):
        if not weight:
            continue
        group = split.blob_memory.diff[node.tops[place]]
        every = list(split.blob_memory.readers_and_writers(group))
        writers = [layer.layer.name for layer, _, writes in every if writes]
        if writers and every[0][1]:  # it is read before anybody writes it anew
            yield Finding(
                Cause.OVERWRITTEN_LOSS_WEIGHT, node.layer.name, Verdict.DIFFERENT,
                "Caffe writes its loss_weight into the gradient of its top once, when it builds "
                f"the net, and the Backward of {writers[0]!r} overwrites it there: from the second "
                "pass on the loss weighs something else.",
                offer=_OWN_TOP if writers[0] == node.layer.name
                else f"Give the top of {writers[0]!r} a name of its own.",
            )  # fmt: skip


def _constants(split: BothSizes, node: Node, coupling: Coupling) -> Iterator[Finding]:
    """Values that are filled once, and that a layer in place changes in each pass."""
    for top in coupling.lasting:
        group = split.blob_memory.data[node.tops[top]]
        writers = [each for each in split.blob_memory.writers_of_data(group) if each is not node]
        if writers and _is_read(split.flows, split.blob_memory.data, group):
            name = writers[0].layer.name
            yield Finding(
                Cause.OVERWRITTEN_DATA, node.layer.name, Verdict.DIFFERENT,
                f"Its values are filled once, when Caffe builds the net, and {name!r}, which works "
                f"in place, changes them again in each pass: {split.iter_size} times an update.",
                offer=f"Give the top of {name!r} a name of its own.",
            )  # fmt: skip


def _is_read(flows: Sequence[SampleFlow], data: Sequence[int], group: int) -> bool:
    """Whether a layer that a loss depends on reads a memory."""
    return any(
        flow.trains and any(data[blob] == group for blob in flow.small.bottoms) for flow in flows
    )
