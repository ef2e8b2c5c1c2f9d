"""CtcLoss, WarpCTCLoss, ContinuationIndicator, LabelsequenceAccuracy: sequences without alignment.

Source: yalecyu/crnn.caffe: ctc_loss_layer.cpp, .cu, continuation_indicator_layer.cpp, .cu,
labelsequence_accuracy_layer.cpp; forks with warp_ctc_loss_layer.cpp. The workspace is that of
baidu-research/warp-ctc, get_workspace_size: it depends on the labels, so the most is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    count,
    refuse_backward,
    refuse_gradient,
)
from caffe_batch.layers.labels import Loss
from caffe_batch.layers.sides import bottom, sides, top


@dataclass(frozen=True, slots=True)
class CtcLossSettings:
    alphabet_size: int = 0
    time_step: int = 0


class WarpCTCLoss(Loss):
    """Activations (T, N, C) and labels; perhaps markers or lengths of the sequences beside them.

    Forward computes the gradient as well, in the diff of bottom 0.
    """

    type = "WarpCTCLoss"
    message = "ctc_loss_param"
    bottoms = (2, 4)
    follows = "warp_ctc_loss_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        _sequences(site)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        """A mean over the sequences, which lie on axis 1."""
        return Coupling(joint=(0, 2), divisor=max(1, _sequences(site)[1]), scribbles=(0,))

    def memory(self, site: Site, mode: Mode) -> Memory:
        for number in range(1, len(site.bottoms)):
            refuse_gradient(site, number, "the labels")
        steps, samples, classes = _sequences(site)
        labels = count(site.bottoms[-1]) // max(1, samples)
        padded = 2 * labels + 1
        # Losses, lengths, offsets; labels without and with blanks; alphas, maxima, probabilities.
        each = 6 + 2 * labels + padded + padded * steps + steps + classes * steps
        workspace = samples * each
        forward = [*sides(bottom, len(site.bottoms), "data"), bottom(0).diff]
        if mode == "cpu":
            forward.append(top(0).data)
            workspace = 0  # on the host it isn't Caffe's
        return Memory(
            forward=tuple(forward),
            backward=(bottom(0).diff,) if site.bottom_need[0] else (),
            transient=workspace,
            at_most=workspace,
        )


class CtcLoss(WarpCTCLoss):
    """With the length of the alphabet and of the sequences in its settings."""

    type = "CtcLoss"
    settings = CtcLossSettings
    bottoms = (2, 2)
    follows = "yalecyu/crnn.caffe: ctc_loss_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: CtcLossSettings = site.settings
        if 0 in (s.alphabet_size, s.time_step):
            raise ShapeError("ctc_loss_param needs alphabet_size and time_step, at least 1")
        samples = _sequences(site)[1]
        if site.bottoms[1][:1] != (samples,):
            raise ShapeError(f"{samples} sequences need as many rows of labels, not "
                             f"{site.bottoms[1]}")  # fmt: skip
        return ((),)


def _sequences(site: Site) -> tuple[int, int, int]:
    """Steps, samples and classes of the activations.

    Raises:
        ShapeError: They aren't sequences.
    """
    shape = site.bottoms[0]
    if len(shape) < 3:
        raise ShapeError(f"the activations have the shape (T, N, C), not {shape}")
    return shape[0], shape[1], count(shape[2:])


@dataclass(frozen=True, slots=True)
class ContinuationIndicatorSettings:
    time_step: int = 0
    batch_size: int = 0


class ContinuationIndicator(Rule):
    """Marks the first step of each sequence with 0: a bottom for a recurrent layer."""

    type = "ContinuationIndicator"
    message = "continuation_indicator_param"
    settings = ContinuationIndicatorSettings
    bottoms = (0, 0)
    has_batch_size = True
    follows = "yalecyu/crnn.caffe: continuation_indicator_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ContinuationIndicatorSettings = site.settings
        if 0 in (s.time_step, s.batch_size):
            raise ShapeError(f"{self.message} needs time_step and batch_size, at least 1")
        return ((s.time_step, s.batch_size),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling()

    def memory(self, site: Site, mode: Mode) -> Memory:
        return Memory(forward=(top(0).data,))


class LabelsequenceAccuracy(Rule):
    """The share of sequences (N, T, C) that are read without a mistake."""

    type = "LabelsequenceAccuracy"
    message = "labelsequence_accuracy_param"
    bottoms = (2, 2)
    follows = "yalecyu/crnn.caffe: labelsequence_accuracy_layer.cpp"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        predictions, labels = site.bottoms
        if len(predictions) < 3 or len(labels) < 2 or predictions[0] != labels[0]:
            raise ShapeError(
                f"it needs predictions (N, T, C) and labels (N, L), not {predictions} and {labels}"
            )
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(joint=(1, 2), divisor=max(1, site.bottoms[0][0]))

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_backward(site, self.type)
        if mode == "gpu":
            return Memory()
        return Memory(forward=(bottom(0).data, bottom(1).data, top(0).data))
