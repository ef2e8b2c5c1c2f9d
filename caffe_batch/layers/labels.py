"""What losses and scores that compare predictions with labels have in common.

Source: loss_layer.cpp; softmax_loss_layer.cpp, accuracy_layer.cpp for the number of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Rule, Shape, axis_index, count, setting


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How a loss is averaged, for losses that offer a choice (LossParameter)."""

    ignore_label: int | None = setting(None, message="loss_param")
    normalization: str | None = setting(None, message="loss_param")
    normalize: bool | None = setting(None, message="loss_param")


class Loss(Rule):
    """Two bottoms of one batch, a scalar top of weight 1, no gradient for the labels."""

    bottoms: tuple[int, int | None] = (2, 2)
    tops: tuple[int, int | None] = (1, 1)
    automatic_top = True
    is_loss = True
    forced_bottoms: tuple[bool, ...] = (True, False)


def normalizer(s: LossSettings, *, default: str, outer: int, inner: int) -> tuple[int, bool]:
    """What such a loss divides by, and whether ignored labels are left out of it.

    The older ``normalize`` counts only if ``normalization`` is not given
    (softmax_loss_layer.cpp, LayerSetUp and get_normalizer).

    Args:
        s: The loss's settings.
        default: The mode if the prototxt gives none.
        outer: Elements before the class axis; usually the samples.
        inner: Elements after it.
    """
    mode = s.normalization
    if mode is None:
        mode = default if s.normalize is None else "VALID" if s.normalize else "BATCH_SIZE"
    divisor = {"NONE": 1, "BATCH_SIZE": outer}.get(mode, outer * inner)
    return max(1, divisor), mode == "VALID" and s.ignore_label is not None


def check_batch(data: Shape, labels: Shape) -> None:
    """Checks that there are as many rows of labels as of predictions.

    Raises:
        ShapeError: The first axes differ, or there is none.
    """
    axis_index(0, data)
    axis_index(0, labels)
    if data[0] != labels[0]:
        raise ShapeError(f"predictions {data} and labels {labels} differ in the first axis")


def check_labels(predictions: Shape, labels: Shape, axis: int) -> None:
    """Checks that each prediction has a label: with classes on axis 1 of (N, C, H, W), N*H*W.

    Raises:
        ShapeError: The counts differ.
    """
    index = axis_index(axis, predictions)
    wanted = count(predictions[:index]) * count(predictions[index + 1 :])
    if count(labels) != wanted:
        raise ShapeError(
            f"predictions {predictions} with classes on axis {index} need {wanted} labels, not "
            f"{count(labels)} {labels}"
        )
