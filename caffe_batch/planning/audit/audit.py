"""Is training at (b, k) the same as training at (b*k, 1)? Every cause to the contrary, by layer.

The net is followed at both sizes (:mod:`caffe_batch.net.samples`); each thing that its layers, its
losses and its solver do differently with k passes instead of one becomes a finding.
``caffe-batch verify`` measures the same on real Caffe.

Files may already accumulate: with iter_size k0 they mean what their clip_gradients, loss_weight and
moving_average_fraction do in k0 passes. Compensation for k passes starts from there.

Sources: solver.cpp (Step), sgd_solver.cpp (ApplyUpdate, ClipGradients, Normalize, Regularize),
parallel.cpp, batch_norm_layer.cpp, the data layers and the losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from caffe_batch.errors import ShapeError
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net.graph import AUTOMATIC
from caffe_batch.net.samples import TIME_AXIS, SampleFlow, Summed
from caffe_batch.planning.audit.both_sizes import BothSizes
from caffe_batch.planning.audit.data_order import finding_of_order
from caffe_batch.planning.audit.findings import COMPENSATED, Cause, Finding, Scope, Verdict
from caffe_batch.planning.audit.overwriting import (
    changes_training,
    of_overwriting,
    of_own_gradients,
)
from caffe_batch.planning.edits.changes import Change, batch_changes
from caffe_batch.solver.numbers import LARGEST_BELOW_1, LARGEST_FLOAT32, as_float32
from caffe_batch.solver.updates import clips

#: Windows of a moving average that differ by less than this, relatively, count as the same.
NEAR_ENOUGH = 0.01


def audit(
    model: MemoryModel,
    *,
    batch_size: int,
    iter_size: int,
    gpus: int = 1,
    own_gpus: int = 1,
    summed_iter: int | None = None,
    refused: Collection[Cause] = (),
) -> tuple[Finding, ...]:
    """Every cause that makes, or could make, the split training differ from the whole batch's.

    Args:
        model: The recipe's model, with the recipe's own batch size.
        batch_size: As it will be in the files (NVCaffe: for all GPUs together).
        iter_size: Passes accumulated into one update.
        gpus: GPUs that share each update.
        own_gpus: GPUs that share each update of the files as they are.
        summed_iter: Passes that losses which are sums are summed over; iter_size if None. If the
            batch grows, that of the first stage: otherwise their steps would grow with it.
        refused: Causes that should not be compensated.

    Returns:
        The findings: the solver's first, then by layer in the net's order. For one pass on one
        GPU, which is the whole batch, only what undoes the files' own compensations.
    """
    split = BothSizes(model, batch_size, iter_size, gpus, own_gpus, summed_iter)
    if split.parts == split.own_parts == split.summed_parts == 1:
        return ()
    findings = list(_of_solver(split))
    if split.only_size is not None:
        findings.append(_one_size(split, split.only_size))
    for flow in split.flows:
        for judge in _JUDGES if split.only_size is None else _ALONE:
            findings += judge(split, flow)
    findings += _of_log(split)
    if split.parts == 1:
        findings = [each for each in findings if each.cause in COMPENSATED and each.changes]
    return tuple(_refuse(finding, refused) for finding in findings)


Judge = Callable[[BothSizes, SampleFlow], Iterator[Finding]]


def _of_solver(split: BothSizes) -> Iterator[Finding]:
    solver, k = split.model.recipe.solver, split.iter_size
    if clips(solver):
        yield from _clipping(split)
    if solver.weight_decay:
        yield Finding(
            Cause.WEIGHT_DECAY, None, Verdict.EXACT,
            "Weight decay is added once an update, after the gradient is divided by iter_size.",
        )  # fmt: skip
    if split.gpus > 1:
        shared = any(param.name for param in split.small.params)
        yield Finding(
            Cause.LAYER_WISE_REDUCE, None, Verdict.EXACT,
            f"Gradients are averaged over the {split.gpus} GPUs"
            + (f"; with layer_wise_reduce after each of the {k} passes, which only adds "
               "traffic." if solver.layer_wise_reduce and k > 1 else "."),
            offer="layer_wise_reduce: false "
            + ("is needed with shared parameters." if shared else "sends them once an update.")
            if solver.layer_wise_reduce else "",
        )  # fmt: skip


def _clipping(split: BothSizes) -> Iterator[Finding]:
    k, before = split.iter_size, as_float32(split.model.recipe.solver.clip_gradients)
    after = as_float32(min(before * k / split.own_iter, LARGEST_FLOAT32))
    what = (
        f"Caffe compares the threshold with the norm of the summed gradient, {k} times the mean's"
    )
    if after != before:
        change = Change(
            "solver", ("clip_gradients",), before, after,
            f"Caffe takes the norm of the sum of {k} gradients, before dividing it by iter_size"
            + _instead(split.own_iter),
        )  # fmt: skip
        yield Finding(
            Cause.CLIP_GRADIENTS, None, Verdict.COMPENSATED,
            f"{what}{_instead(split.own_iter)}; {k / split.own_iter:g} times the threshold "
            "clips the same way.",
            (change,),
        )  # fmt: skip
    elif k > 1:
        why = f"{what}, as in the files: {before:g} stays."
        yield Finding(Cause.CLIP_GRADIENTS, None, Verdict.EXACT, why)


def _instead(own: int) -> str:
    """What a change starts from, if that isn't one pass."""
    return f" (in the files: {own})" if own > 1 else ""


def _of_data(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    layer = flow.small.layer
    if layer.bottoms or not flow.trains or flow.small.rule.opaque:
        return
    if flow.coupling.quota is not None:
        yield _windows(split, flow)
    elif flow.small.rule.record_order:
        yield finding_of_order(layer.name, flow.small.rule, flow.coupling, split.gpus)
    elif flow.coupling.draws:
        yield _draws(flow, "its random numbers")


def _windows(split: BothSizes, flow: SampleFlow) -> Finding:
    """Each batch of WindowData has floor(batch_size x fg_fraction) windows with an object."""
    name = flow.small.layer.name
    here, whole = (flow.coupling.quota or 0) * split.parts, flow.whole.quota or 0
    if here == whole:
        return Finding(
            Cause.WINDOW_DATA, name, Verdict.APPROXIMATE,
            f"The windows are drawn at random; {whole} per update are foreground either way.",
        )  # fmt: skip
    return Finding(
        Cause.WINDOW_DATA, name, Verdict.DIFFERENT,
        f"The number of foreground windows is rounded down in each batch: {split.parts} x "
        f"{flow.coupling.quota} = {here} per update instead of {whole}.",
        offer="Choose a batch_size for which batch_size x fg_fraction is whole.",
    )  # fmt: skip


def _of_layer(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """What a layer does between its bottoms and its tops."""
    layer, coupling = flow.small.layer, flow.coupling
    # Moving averages are updated whether a loss depends on them or not.
    if flow.small.rule.moving_average or (flow.trains and coupling.statistics):
        yield from _batch_norm(split, flow)
    if not (flow.trains or changes_training(split, flow)):
        return
    if flow.small.rule.opaque:
        yield Finding(
            Cause.UNKNOWN_LAYER, layer.name, Verdict.UNKNOWN,
            f"What a {layer.type} layer does with a batch depends on its code.",
            offer="`caffe-batch verify` measures it.",
        )  # fmt: skip
    elif flow.problem:
        yield Finding(
            Cause.MIXED_SAMPLES, layer.name, Verdict.DIFFERENT,
            f"It mixes the samples of a batch: {flow.problem}.",
        )  # fmt: skip
    if coupling.draws and layer.bottoms:
        yield _draws(flow, "its draws")
    if coupling.paced is not None and split.iter_size != split.own_iter:
        name, value = coupling.paced
        kept = as_float32(value * split.own_iter / split.iter_size)
        yield Finding(
            Cause.PACE, layer.name, Verdict.DIFFERENT,
            f"Its {name} takes effect with each pass, {split.iter_size} times per update"
            f"{_instead(split.own_iter)}.",
            offer=f"{name}: {kept:g} keeps the pace.",
        )  # fmt: skip
    if flow.cuts_time:
        steps = flow.small.site.bottoms[0][TIME_AXIS]
        yield Finding(
            Cause.RECURRENT_STATE, layer.name, Verdict.DIFFERENT,
            f"The batch lies on its time axis: a pass is {steps} time steps instead of "
            f"{steps * split.parts}. Its state carries over from pass to pass, so the forward pass "
            f"is the same, but backpropagation through time is cut to {steps} steps. Exact if "
            "every pass begins a new sequence (cont 0 at its first step).",
            offer="Fewer streams (axis 1, in the data) save memory without that.",
        )  # fmt: skip
    elif coupling.carries_state:
        yield Finding(
            Cause.RECURRENT_STATE, layer.name, Verdict.DIFFERENT,
            f"Its state carries over from pass to pass: stream n of a pass continues where stream "
            f"n of the previous pass ended, which in the whole batch is {split.per_gpu} streams "
            "away. Exact if every sequence begins in its own batch (cont 0 at its first step).",
            offer="Cut the data so that each batch begins new sequences, or lay the streams out "
            "for the smaller batch.",
        )  # fmt: skip


def _draws(flow: SampleFlow, what: str) -> Finding:
    return Finding(
        Cause.RANDOM_DRAWS, flow.small.layer.name, Verdict.APPROXIMATE,
        f"The same distribution, but {what} come in another order.",
    )  # fmt: skip


def _batch_norm(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    name, decay, k = flow.small.layer.name, flow.coupling.decay, split.iter_size
    if not flow.coupling.statistics:
        yield Finding(
            Cause.BATCH_NORM_STATISTICS, name, Verdict.EXACT,
            f"{flow.small.rule.known_statistics}: mean and variance are known beforehand.",
        )  # fmt: skip
        return
    yield Finding(
        Cause.BATCH_NORM_STATISTICS, name, Verdict.DIFFERENT,
        f"Mean and variance are those of {split.per_gpu} samples instead of "
        f"{split.per_gpu * split.parts}, in the forward pass and in the gradient.",
        offer=f"{flow.small.rule.known_statistics}: true when fine-tuning; otherwise the largest "
        "batch_size possible." if flow.small.rule.known_statistics else
        "The largest batch_size possible.",
    )  # fmt: skip
    if decay is None:  # it keeps no averages
        return
    own, before = split.own_iter, as_float32(decay)
    if k == own or before in (0, 1):
        return
    if not 0 < before < math.inf:
        yield Finding(
            Cause.BATCH_NORM_AVERAGE, name, Verdict.DIFFERENT,
            f"The moving averages decay in each pass, {k} times per update{_instead(own)}, and a "
            f"moving_average_fraction of {before:g} has no root that would keep their window.",
            offer="Give one between 0 and 1: Caffe's default is 0.999.",
        )  # fmt: skip
        return
    exact = before ** (own / k)
    after = min(as_float32(exact), LARGEST_BELOW_1)
    near = abs((1 - after) / (1 - exact) - 1) <= NEAR_ENOUGH
    root = Fraction(own, k)
    change = split.change(
        flow.small, (flow.small.rule.message, flow.small.rule.moving_average), before, after,
        f"the {k} passes of an update then forget as much as {own} did: {before:g}^({root})",
    )  # fmt: skip
    yield Finding(
        Cause.BATCH_NORM_AVERAGE, name, Verdict.COMPENSATED if near else Verdict.APPROXIMATE,
        f"The moving averages decay in each pass, {k} times per update{_instead(own)}; the "
        f"fraction to the power of {root} keeps their window"
        + ("." if near else ", as far as single precision allows."),
        (change,),
    )  # fmt: skip


def _of_loss(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """For what has a loss weight: whether the mean over the passes is the whole batch's loss."""
    weighted = [i for i, weight in enumerate(flow.small.loss) if weight]
    if not weighted:
        return
    if split.hands_weight_on(flow.small):
        yield from _counted_twice(split, flow)
        return
    node = split.written(flow.small)
    factors: dict[int, Fraction | None] = {}
    for i in weighted:
        top = flow.tops[i]
        if split.is_sum(top):
            factors[i] = split.more_parts
        elif isinstance(top, Summed):
            factors[i] = top.factor
    cause = Cause.LOSS_NORMALIZATION if node.rule.is_loss else Cause.LOSS_SUM
    if None in factors.values():
        yield Finding(
            Cause.IGNORE_LABEL, node.layer.name, Verdict.APPROXIMATE,
            f"It divides by the number of {node.rule.counted}, counted in each pass: every pass "
            "has the same weight, however many there are in it.",
            offer="normalization: FULL and BATCH_SIZE divide by a constant number.",
        )  # fmt: skip
    changed = {i: factor for i, factor in factors.items() if factor not in (None, 1)}
    if changed:
        yield _weigh(split, flow, cause, changed)
    elif factors and None not in factors.values():
        sums = any(split.is_sum(flow.tops[i]) for i in weighted)
        yield Finding(
            cause, node.layer.name, Verdict.EXACT,
            f"It is a sum, and its loss_weight is for the sum over {split.summed_parts} x "
            f"{split.per_gpu} samples."
            if sums
            else "It is a mean over the batch, and the mean of the passes is the same mean.",
        )  # fmt: skip


def _counted_twice(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """A loss whose weight a Split has taken over: the log also adds it with the default 1."""
    top = flow.tops[0]
    if not (isinstance(top, Summed) and top.factor == 1):
        yield Finding(
            Cause.LOG_OUTPUTS, flow.small.layer.name, Verdict.DIFFERENT,
            "Other layers read this loss, so Caffe's `loss` line counts it twice: with its weight "
            "and, as a sum over each pass, with 1. The gradient has only its weight.",
            scope=Scope.LOG,
        )  # fmt: skip


def _weigh(
    split: BothSizes, flow: SampleFlow, cause: Cause, factors: dict[int, Fraction]
) -> Finding:
    """The finding and the change for a loss that is a sum over the batch."""
    node = split.written(flow.small)
    times = _either(f"{float(each):g} times" for each in factors.values())
    away = _either(
        f"{float(each):g} times too small" if each > 1 else f"{float(1 / each):g} times too large"
        for each in factors.values()
    )
    summed = f"summed over {split.per_gpu} samples it is {away}"
    if node is flow.small:
        weights, written = node.loss, bool(node.layer.loss_weights)
    else:  # a Split has taken over the weight of its bottom, and has it on its first top
        top, written = node.tops.index(flow.small.bottoms[0]), True
        weights, factors = (0.0,) * top + flow.small.loss[:1], {top: factors[0]}
    changes = [
        split.change(
            node, ("loss_weight", i),
            as_float32(weight) if written else None,
            as_float32(as_float32(weight) * float(factors.get(i, 1))),
            f"not a mean over the batch: {summed}",
        )
        for i, weight in enumerate(weights)
        if i in factors or not written
    ]  # fmt: skip
    return Finding(
        cause, node.layer.name, Verdict.COMPENSATED,
        f"It doesn't divide by the batch size: {summed}; {times} the loss_weight compensates.",
        tuple(changes),
    )  # fmt: skip


def _either(words: Iterable[str]) -> str:
    """The distinct words, as alternatives."""
    return " or ".join(sorted(set(words)))


def _of_literal(split: BothSizes, flow: SampleFlow) -> Iterator[Finding]:
    """Batch sizes written out in layers that don't produce data."""
    if flow.small.rule.copied_axis is None:
        return
    name = flow.small.layer.name
    model = split.model
    changes = batch_changes(model.recipe, model.train_layers, split.batch_size)
    own = tuple(change for change in changes if change.layer_name == name)
    if own:
        yield Finding(
            Cause.LITERAL_BATCH, name, Verdict.COMPENSATED,
            "The batch size is written out in its shape; a 0 copies it instead.", own,
        )  # fmt: skip


def _one_size(split: BothSizes, error: ShapeError) -> Finding:
    return Finding(
        Cause.LITERAL_BATCH, error.layer, Verdict.UNKNOWN,
        f"Caffe builds the net only with a batch of {split.per_gpu}, so there is no whole batch to "
        f"compare its losses with: {error.message}.",
    )  # fmt: skip


def _of_log(split: BothSizes) -> Iterator[Finding]:
    """What Caffe's log prints of the train net."""
    used = {i for node in split.small.nodes for i in node.bottoms}
    makers = {i: node.layer.name for node in split.small.nodes for i in node.tops}
    blobs = {i: split.small.blobs[i].name for i in sorted(makers.keys() - used)}
    names = [
        f"the unnamed one of layer {makers[i]}" if name == AUTOMATIC else name
        for i, name in blobs.items()
    ]
    if names and split.iter_size > 1:
        yield Finding(
            Cause.LOG_OUTPUTS, None, Verdict.DIFFERENT,
            f"Caffe's log prints the train net's outputs ({', '.join(names)}) only for the last "
            "pass of an update. Its `loss` line, and caffe-batch's, is the mean over all passes.",
            scope=Scope.LOG,
        )  # fmt: skip


#: What is checked for each layer.
_JUDGES: tuple[Judge, ...] = (_of_data, _of_literal, _of_layer, of_overwriting, _of_loss)
#: What can be checked where it isn't known which blobs hold the samples.
_ALONE: tuple[Judge, ...] = (_of_data, _of_layer, of_own_gradients)


def _refuse(finding: Finding, refused: Collection[Cause]) -> Finding:
    """A finding whose compensation the user doesn't want."""
    if finding.cause not in refused or not finding.changes:
        return finding
    offer = "; ".join(f"{c.field}: {c.before} -> {c.after}" for c in finding.changes)
    return replace(
        finding, verdict=Verdict.DIFFERENT, changes=(), offer=f"Refused compensation: {offer}"
    )
