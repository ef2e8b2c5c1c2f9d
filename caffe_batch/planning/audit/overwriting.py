"""What layers overwrite: gradients, loss weights and constants that a later pass finds changed.

In one pass over the whole batch, most of this doesn't show. In k passes the second one finds what
the first one left, or a gradient that doesn't scale with the loss is divided by k all the same.
Found by `make audit-search`; each follows from the layer's Backward in Caffe's sources.
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
    """What one layer overwrites, or what is overwritten for it, that changes the training."""
    node, coupling = flow.small, flow.coupling
    yield from of_own_gradients(split, flow)
    if coupling.rereads and _goes_back_in_place(split, node):
        yield Finding(
            Cause.SPOILED_GRADIENT, node.layer.name, Verdict.DIFFERENT,
            f"An in-place {node.layer.type} layer overwrites the incoming gradient before it "
            "has finished reading it. What it passes on doesn't scale with the loss, so the mean "
            "over the passes isn't what the whole batch gives.",
            offer=_OWN_TOP,
        )  # fmt: skip
    for bottom in coupling.scribbles:
        yield from _scribbled(split, node, bottom)
    if split.iter_size > 1:
        yield from _loss_weights(split, node)
        yield from _constants(split, node, coupling)


def of_own_gradients(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """Whether a layer overwrites the gradients of its parameters."""
    node = flow.small
    if node.site.backward and any(node.site.param_need[i] for i in flow.coupling.overwrites):
        yield from _parameters(split, flow)


def changes_training(split: BothSizes, flow: SampleFlow) -> bool:
    """Whether a layer that no loss depends on works in memory that layers with a loss use.

    In place, it replaces values that others read in their Backward: behind a Reshape of a blob that
    has other readers, or on the exposed state of an LSTM, which is that of the net inside it.
    """
    node, data = flow.small, split.blob_memory.data
    if flow.trains or not any(node.site.in_place):
        return False
    written = {data[blob] for blob, same in zip(node.tops, node.site.in_place, strict=True) if same}
    return any(
        other.trains and not written.isdisjoint(data[blob] for blob in (*used.bottoms, *used.tops))
        for other in split.flows
        for used in (other.small,)
    )


def _parameters(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    if split.iter_size > 1:
        last = (
            f"Each pass overwrites the gradient of its parameter instead of adding to it: of the "
            f"{split.iter_size} passes of an update only the last one counts, divided by "
            f"{split.iter_size}."
        )
        offer = (
            f"A batch_size of 2 or more adds{_even_batches(split)}."
            if split.per_gpu == 1 and not flow.whole.overwrites
            else "Use a batch_size that makes the update one pass, or move the parameter to a "
            "layer that adds, such as Bias or Scale."
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


def _goes_back_in_place(split: BothSizes, node: Node) -> bool:
    """Whether its Backward writes over the gradient that comes in, and others then read that.

    Some write unasked, with propagate_down: false.
    """
    memory = split.blob_memory
    if not any(node.site.in_place[:1]) or not node.site.backward:
        return False
    every = [
        (layer, reads) for layer, reads, _ in memory.readers_and_writers(memory.diff[node.tops[0]])
    ]
    places = [place for place, (layer, _) in enumerate(every) if layer is node]
    return memory.writes_gradient(node, 0) and any(
        reads for place in places for _, reads in every[place + 1 :]
    )


def _scribbled(split: BothSizes, node: Node, bottom: int) -> Iterator[Finding]:
    """Numbers that Forward leaves in a gradient, if the layer's Backward doesn't replace them."""
    site, memory = node.site, split.blob_memory
    if site.backward and site.bottom_need[bottom]:
        return
    group = memory.diff[node.bottoms[bottom]]
    if any(reads for _, reads, _ in memory.readers_and_writers(group)):
        yield Finding(
            Cause.SPOILED_GRADIENT, node.layer.name, Verdict.DIFFERENT,
            f"Its Forward leaves numbers in the gradient of bottom {bottom}, and its Backward, "
            "which would replace them, doesn't run. The layers before it take them for a gradient, "
            "which doesn't scale with the loss.",
            offer="Leave it out of the TRAIN net (include { phase: TEST }), or give it a "
            "loss_weight other than 0.",
        )  # fmt: skip


def _loss_weights(split: BothSizes, node: Node) -> Iterator[Finding]:
    """A loss_weight is in the gradient of its top, written once, when the net is built."""
    for place, weight in enumerate(node.loss):
        if not weight:
            continue
        group = split.blob_memory.diff[node.tops[place]]
        every = list(split.blob_memory.readers_and_writers(group))
        writers = [layer.layer.name for layer, _, writes in every if writes]
        if writers and every[0][1]:  # it is read before anything rewrites it
            yield Finding(
                Cause.OVERWRITTEN_LOSS_WEIGHT, node.layer.name, Verdict.DIFFERENT,
                "Caffe writes its loss_weight into the gradient of its top once, when it builds "
                f"the net, and the Backward of {writers[0]!r} overwrites it there: from the second "
                "pass on the loss has another weight.",
                offer=_OWN_TOP if writers[0] == node.layer.name
                else f"Give the top of {writers[0]!r} a name of its own.",
            )  # fmt: skip


def _constants(split: BothSizes, node: Node, coupling: Coupling) -> Iterator[Finding]:
    """Values that are filled once, and that an in-place layer changes in each pass."""
    for top in coupling.lasting:
        group = split.blob_memory.data[node.tops[top]]
        writers = [each for each in split.blob_memory.writers_of_data(group) if each is not node]
        # A parameter is in the snapshot, whether a loss depends on it or not.
        if writers and (node.params or _is_read(split.flows, split.blob_memory.data, group)):
            name = writers[0].layer.name
            yield Finding(
                Cause.OVERWRITTEN_DATA, node.layer.name, Verdict.DIFFERENT,
                f"Its values are filled once, when Caffe builds the net, and {name!r}, which works "
                f"in place, changes them again in each pass: {split.iter_size} times per update.",
                offer=f"Give the top of {name!r} a name of its own.",
            )  # fmt: skip


def _is_read(flows: Sequence[SampleFlow], data: Sequence[int], group: int) -> bool:
    """Whether a layer that a loss depends on reads a memory group."""
    return any(
        flow.trains and any(data[blob] == group for blob in flow.small.bottoms) for flow in flows
    )
