"""What makes a training in PyTorch differ from the same training in Caffe, whatever the split.

The audit compares a split with the whole batch; these findings compare an engine with Caffe, so
they have a scope of their own. ``verify --against`` measures them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from caffe_batch.engines.torch.refusals import departures
from caffe_batch.errors import NetError
from caffe_batch.layers.base import Phase
from caffe_batch.memory import MemoryModel
from caffe_batch.net.convert import fillers, read_settings
from caffe_batch.net.recipe import NetFile
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared

#: Fillers whose numbers boost draws by a method of its own.
OTHER_FILLERS = ("gaussian", "msra")


def of_engine(model: MemoryModel, batch_size: int, precision: Precision) -> Iterator[Finding]:
    """What PyTorch makes different from Caffe, the whole net first and then by layer.

    Args:
        model: The recipe.
        batch_size: Samples of a micro-batch.
        precision: How exactly PyTorch calculates.
    """
    if precision is Precision.TF32 and model.mode == "cpu":
        yield _finding(
            Cause.PRECISION,
            None,
            Verdict.EXACT,
            "tf32 has no effect on the CPU, which calculates in float32 as Caffe does.",
        )
    elif precision is not Precision.FLOAT32:
        yield _finding(
            Cause.PRECISION,
            None,
            Verdict.DIFFERENT,
            f"With {precision.value} each factor of a product is rounded, with a relative error of "
            f"up to {precision.rounding:.0e}; Caffe calculates in float32."
            + (" On a CPU it has no effect." if precision is Precision.TF32 else ""),
        )
    yield from _of_draws(model.recipe.train)
    yield from _of_memory(model, batch_size)


def of_ranks(
    findings: Iterable[Finding], shared: Collection[Shared], as_one: Iterable[Finding]
) -> Iterator[Finding]:
    """What the audit finds of a split over several GPUs; here each record is read as one would.

    Args:
        findings: Those of Caffe, whose GPUs draw their own crops and orders.
        shared: What the GPUs count together.
        as_one: Those of one GPU that has the samples of all.
    """
    together = {_SYNCED[each] for each in shared}
    known = {(each.cause, each.layer): each for each in as_one}
    for found in findings:
        if found.cause in together and found.verdict is not Verdict.EXACT:
            one = known.get((found.cause, found.layer))
            if one is None:
                yield replace(
                    found, verdict=Verdict.EXACT, explanation=_COUNTED[found.cause], offer=""
                )
            else:
                yield replace(one, explanation=f"{_COUNTED[found.cause]} {one.explanation}")
            continue
        if found.cause is Cause.DATA_ORDER and found.verdict is not Verdict.EXACT:
            yield replace(found, verdict=Verdict.EXACT, explanation=_SHARED, offer="")
        elif found.cause is Cause.LAYER_WISE_REDUCE:
            yield replace(found, explanation=_AVERAGED, offer="")
        else:
            yield found


#: What is shared, by its cause of a difference.
_SYNCED = {Shared.BATCH_NORM: Cause.BATCH_NORM_STATISTICS, Shared.VALID: Cause.IGNORE_LABEL}
_COUNTED = {
    Cause.BATCH_NORM_STATISTICS: "The ranks calculate mean and variance together.",
    Cause.IGNORE_LABEL: "The ranks count labels together.",
}
_SHARED = (
    "Each rank reads its share of the records, in the order and with the crops and mirrors that "
    "one process would give them."
)
_AVERAGED = "Gradients are averaged over the ranks once an update, after its passes."


def _of_draws(file: NetFile) -> Iterator[Finding]:
    for _, layer, rule in file.known():
        if any(filler.type in OTHER_FILLERS for filler in fillers(layer)):
            yield _finding(
                Cause.ENGINE_DRAWS,
                layer.name,
                Verdict.APPROXIMATE,
                f"The fillers {' and '.join(OTHER_FILLERS)} draw other numbers than Caffe's, from "
                "the same distribution.",
            )
        if rule.undrawn is not None and rule.draws(read_settings(layer, rule, {}), "TRAIN"):
            yield _finding(
                Cause.ENGINE_DRAWS,
                layer.name,
                Verdict.APPROXIMATE,
                "It draws other numbers than Caffe's in each pass, from the same distribution.",
            )


def _of_memory(model: MemoryModel, batch_size: int) -> Iterator[Finding]:
    """What Caffe only does because of where its memory lies."""
    seen = set()
    try:
        tests = model.test_nets(batch_size)
    except NetError:  # where it matters, the plan refuses them
        tests = ()
    for net in (model.train_net(batch_size), *tests):
        for departure in departures(net):
            if departure not in seen:
                seen.add(departure)
                yield _finding(
                    Cause.MEMORY_LAYOUT,
                    departure.layer,
                    Verdict.DIFFERENT,
                    departure.explanation[:1].upper() + departure.explanation[1:] + ".",
                    net.phase,
                )


def _finding(
    cause: Cause, layer: str | None, verdict: Verdict, why: str, phase: Phase = "TRAIN"
) -> Finding:
    where = "" if phase == "TRAIN" else "In the test net: "
    return Finding(cause, layer, verdict, f"{where}{why}", scope=Scope.ENGINE)
