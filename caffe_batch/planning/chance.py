"""The loss of a classifier that has learned nothing."""

from __future__ import annotations

from caffe_batch.net.graph import Net


def chance_loss(net: Net) -> float | None:
    """The loss of guessing all classes alike; None if some part of the loss has no such value.

    Args:
        net: The train net; parts of its loss count with their loss_weight.
    """
    total = 0.0
    for node in net.nodes:
        weight = sum(node.loss)
        if not weight:
            continue
        part = node.rule.chance_loss(node.site)
        if part is None:
            return None
        total += weight * part
    return total or None
