"""Losses that are sums over the batch: their gradient grows with the effective batch."""

from __future__ import annotations

from fractions import Fraction

from caffe_batch.memory.base import MemoryModel
from caffe_batch.planning.audit.both_sizes import BothSizes


def summed_losses(model: MemoryModel, batch_size: int) -> tuple[str, ...]:
    """Names of the layers whose loss is a sum over the batch, in the net's order.

    Args:
        model: The recipe's model.
        batch_size: A size that the net can be built at.
    """
    split = BothSizes(model, batch_size, iter_size=1, gpus=1)
    if split.only_size is not None:
        return ()
    names = (
        split.written(flow.small).layer.name
        for flow in split.flows
        for weight, top in zip(flow.small.loss, flow.tops, strict=True)
        if weight and split.is_sum(top) and not split.hands_weight_on(flow.small)
    )
    return tuple(dict.fromkeys(names))


def sums_remark(model: MemoryModel, batch_size: int, ratio: Fraction) -> str | None:
    """What another effective batch does to losses that are sums; None if it does nothing.

    Args:
        model: The recipe's model.
        batch_size: A size that the net can be built at.
        ratio: The new effective batch over the recipe's.
    """
    names = summed_losses(model, batch_size) if ratio != 1 else ()
    if not names:
        return None
    return (
        f"The loss of {', '.join(names)} is a sum over the batch, as written in the files: with "
        f"{float(ratio):.4g} times the recipe's batch its gradient, and so each step, is "
        f"{float(ratio):.4g} times as large, on top of any change of base_lr. A mean "
        "(normalization: VALID, or a smaller loss_weight) would not change."
    )
