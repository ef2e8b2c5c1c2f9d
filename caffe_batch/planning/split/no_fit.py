"""The error for a budget that no split of the effective batch fits: what it takes, and why."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_batch.errors import Call, DoesNotFitError
from caffe_batch.memory.base import MemoryModel, Prediction
from caffe_batch.memory.ledger import LayerBytes
from caffe_batch.net.batch import written_out
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.split.candidates import Candidate
from caffe_batch.sizes import format_size
from caffe_batch.terminal import one_line


def does_not_fit(
    model: MemoryModel,
    prediction: Prediction,
    budget: Budget,
    candidates: Sequence[Candidate],
    *,
    keeps_tests: bool,
) -> DoesNotFitError:
    """The error for a budget that not even the smallest batch fits; names the costliest layers.

    Args:
        model: The recipe's model.
        prediction: The memory of the smallest plan, with the smallest test batches.
        budget: The memory allowed.
        candidates: The smallest split that Caffe accepts, then those that it refuses.
        keeps_tests: Whether test nets keep their batches in that plan.
    """
    size, refused = candidates[0].batch_size, candidates[1:]
    missing = prediction.allocated_bytes - budget.usable_bytes
    costly = sorted(prediction.layers, key=lambda layer: layer.bytes, reverse=True)[:5]
    test = ", a smaller TEST batch_size" if keeps_tests else ""
    lines = "".join(f"\n  {_cost(layer, prediction.peak_bytes)}" for layer in costly)
    if refused:
        least = refused[-1]
        lines += f"\nCaffe refuses smaller ones: at batch_size {least.batch_size}, {least.refused}"
    literal = written_out(model.train_layers) if refused else []
    way = f"Written out for one batch_size: {', '.join(literal)}. " if literal else ""
    return DoesNotFitError(
        f"batch_size {size} needs {format_size(prediction.allocated_bytes)}, "
        f"{format_size(missing)} ({missing:,} bytes) more than the "
        f"{format_size(budget.usable_bytes)} that the budget of "
        f"{format_size(budget.budget_bytes)} leaves for Caffe. "
        f"The layers that cost most:{lines}",
        missing_bytes=missing,
        hint=[
            f"{way}Try more memory, smaller input images{test}, or see all layers with ",
            Call("`caffe-batch memory`", "caffe_batch.memory()"),
            ".",
        ],
    )


def _cost(layer: LayerBytes, total: int) -> str:
    where = "" if layer.net == "train" else f", {layer.net} net"
    share = layer.bytes / total if total else 0.0
    what = one_line(f"{layer.name} ({layer.type}{where})")
    return f"{what}: {format_size(layer.bytes)}, {share:.0%}"
