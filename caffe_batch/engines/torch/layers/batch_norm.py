"""BatchNorm: normalisation over the batch, without the factor and term that Scale adds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.engines.torch.layers.scale import Scale
from caffe_batch.engines.torch.layers.statistics import normalised_together
from caffe_batch.layers.base import count
from caffe_batch.schema import caffe_pb2


class BatchNorm(TorchLayer):
    """Blobs: the moving sums of the means, of the variances, and of their weights.

    A pass adds to each sum what is new and multiplies what was there by
    moving_average_fraction. In TEST (or with use_global_stats) the sums are divided by their
    weight. In other respects the layer normalises as torch does, with the biased variance.

    Attributes:
        averages: Whether passes change the sums; off while a pass is computed once more.
    """

    fresh = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = place.message.batch_norm_param
        self.fraction: float = s.moving_average_fraction
        self.eps: float = s.eps
        self.fixed = (
            s.use_global_stats if s.HasField("use_global_stats") else place.site.phase == "TEST"
        )
        self.averages = True

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return (caffe_pb2.FillerParameter(),) * 3

    def needs(self) -> tuple[bool, ...]:
        """Caffe's Backward doesn't look at propagate_down."""
        return (self.place.site.backward,)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (self.normalise(bottoms[0], blobs, None, None),)

    def normalise(
        self, x: Tensor, blobs: Tensors, scale: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """The top, times a scale and plus a bias by channel, if they are given."""
        mean, variance, weight = blobs
        if self.fixed:
            with torch.no_grad():
                known = weight[0]
                factor = torch.where(known == 0, 0, 1 / known)
                mean, variance = mean * factor, variance * factor
            return torch.batch_norm(
                x, scale, bias, mean, variance, False, 0.0, self.eps, torch.backends.cudnn.enabled
            )
        new_mean, new_variance = torch.zeros_like(mean), torch.zeros_like(variance)
        if self.together is None:
            y = torch.batch_norm(
                x, scale, bias, new_mean, new_variance, True, 1.0, self.eps,
                torch.backends.cudnn.enabled,
            )  # fmt: skip
        else:
            y = normalised_together(x, scale, bias, new_mean, new_variance, self.eps, self.together)
        if self.averages:
            with torch.no_grad():
                if (
                    self.together is None and count(x.shape) == x.shape[1]
                ):  # one number a channel: torch divides 0 by 0
                    new_variance.zero_()
                weight.mul_(self.fraction).add_(1)
                mean.mul_(self.fraction).add_(new_mean)
                variance.mul_(self.fraction).add_(new_variance)
        return y


class ScaledBatchNorm(TorchLayer):
    """A BatchNorm and the Scale that reads it, in one: their blobs, one after the other's.

    One pass over the samples instead of three, and nothing is kept for the gradient of the Scale.
    """

    fresh = True

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__(norm.place)
        self.norm = norm

    @staticmethod
    def fits(norm: TorchLayer, scale: TorchLayer) -> bool:
        """Whether two layers, of which the second reads the first, are such a pair."""
        if not (isinstance(norm, BatchNorm) and isinstance(scale, Scale)):
            return False
        (x, *others), axis = scale.place.site.bottoms, scale.place.message.scale_param.axis
        return (
            not others
            and len(x) > 1
            and axis % len(x) == 1
            and scale.place.node.param_shapes[0] == (x[1],)
        )

    def needs(self) -> tuple[bool, ...]:
        return self.norm.needs()

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        factor, bias = blobs[3], blobs[4] if len(blobs) > 4 else None
        return (self.norm.normalise(bottoms[0], blobs[:3], factor, bias),)
