"""What losses and scores that compare predictions with labels have in common."""

from __future__ import annotations

from torch import Tensor

from caffe_batch.engines.torch.layers.base import Together
from caffe_batch.layers.labels import LossSettings


def by_class(
    x: Tensor, labels: Tensor, axis: int, ignored: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions as (outer, classes, inner), labels as (outer, inner), and which labels count.

    An ignored label is replaced by 0, so that it can be used as an index.
    """
    axis = axis % x.dim()
    scores = x.flatten(axis + 1) if axis < x.dim() - 1 else x[..., None]
    scores = scores.flatten(0, axis - 1) if axis else scores[None]
    wanted = labels.long().reshape(scores.shape[0], scores.shape[2])
    counts = wanted == wanted if ignored is None else wanted != ignored
    return scores, wanted if ignored is None else wanted * counts, counts


def mean(
    losses: Tensor,
    counts: Tensor | None,
    s: LossSettings,
    together: Together | None,
    *,
    default: str,
    outer: int,
) -> Tensor:
    """The sum of the losses, divided as loss_param says; never by less than 1.

    Args:
        losses: One for each label; zero where a label is ignored.
        counts: Which labels count; None if all do.
        s: The settings of the loss.
        together: The ranks over which labels that count are counted; their mean is then that of
            one process with the samples of all.
        default: The normalization if none is given.
        outer: Elements before the class axis; usually the samples.
    """
    mode = s.normalization
    if mode is None:
        mode = default if s.normalize is None else "VALID" if s.normalize else "BATCH_SIZE"
    total = losses.sum()
    if mode == "VALID" and counts is not None:
        number = counts.sum().to(total.dtype)
        if together is None:
            return total / number.clamp(min=1)
        together.add_up(number)
        return total / (number.clamp(min=1) / together.size)
    divisor = {"NONE": 1, "BATCH_SIZE": outer}.get(mode, losses.numel())
    return total / max(1, divisor)
