"""Types of Caffe 1.0 as some forks have them.

Source: SegNet's: alexgkendall/caffe-segnet, dropout_layer.cpp, .cu, softmax_loss_layer.cpp, .cu;
NVCaffe's: NVIDIA/caffe (caffe-0.17), batch_norm_layer.cpp; accuracy_layer.cpp, which has GPU code
only in Caffe 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_batch.layers.accuracy import Accuracy
from caffe_batch.layers.base import Buffer, Memory, Mode, Phase, Shape, Site, setting
from caffe_batch.layers.batch_norm import BatchNorm, BatchNormSettings
from caffe_batch.layers.neurons import Dropout
from caffe_batch.layers.sides import param
from caffe_batch.layers.softmax_loss import SoftmaxWithLoss, SoftmaxWithLossSettings


class HostAccuracy(Accuracy):
    """Counts on the host in both modes."""

    follows = "accuracy_layer.cpp"

    def __init__(self, fork: str) -> None:
        self.forks = (fork,)

    def memory(self, site: Site, mode: Mode) -> Memory:
        memory = super().memory(site, "cpu")
        return Memory() if mode == "gpu" else memory


@dataclass(frozen=True, slots=True)
class SampledDropoutSettings:
    sample_weights_test: bool = False


class SampledDropout(Dropout):
    """SegNet's, which can drop in TEST as well."""

    settings = SampledDropoutSettings
    forks = ("segnet",)
    follows = "alexgkendall/caffe-segnet: dropout_layer.cpp, .cu"

    def draws(self, settings: SampledDropoutSettings, phase: Phase) -> bool:
        return phase == "TRAIN" or settings.sample_weights_test

    def memory(self, site: Site, mode: Mode) -> Memory:
        drawing = self.draws(site.settings, site.phase)
        return super().memory(replace(site, phase="TRAIN") if drawing else site, mode)


@dataclass(frozen=True, slots=True)
class WeightedLossSettings(SoftmaxWithLossSettings):
    weight_by_label_freqs: bool = setting(False, message="loss_param")
    class_weighting: tuple[float, ...] = setting((), message="loss_param")


class WeightedLoss(SoftmaxWithLoss):
    """SegNet's, with a weight for each class."""

    settings = WeightedLossSettings
    forks = ("segnet",)
    follows = "alexgkendall/caffe-segnet: softmax_loss_layer.cpp, .cu"

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: WeightedLossSettings = site.settings
        memory = super().memory(site, mode)
        if not s.weight_by_label_freqs:
            return memory
        weights = Buffer("label_counts_", len(s.class_weighting))
        return replace(
            memory,
            buffers=(*memory.buffers, weights),
            build=(*memory.build, weights.data) if mode == "cpu" else (),
            forward=(*memory.forward, weights.data),
        )


@dataclass(frozen=True, slots=True)
class ScaledBatchNormSettings(BatchNormSettings):
    scale_bias: bool = False
    scale_filler: str | None = None
    bias_filler: str | None = None


class ScaledBatchNorm(BatchNorm):
    """NVCaffe's, which may learn a scale and a bias itself."""

    settings = ScaledBatchNormSettings
    fixed_parameters = False
    forks = ("nvcaffe",)
    follows = "NVIDIA/caffe: batch_norm_layer.cpp, .cu"

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        channels = site.bottoms[0][1]
        learned = ((channels,), (channels,)) if _learns(site) else ()
        return (*super().parameters(site), *learned)

    def memory(self, site: Site, mode: Mode) -> Memory:
        memory = super().memory(site, mode)
        if not _learns(site):
            return memory
        return replace(
            memory,
            forward=(*memory.forward, param(3).data, param(4).data),
            backward=(*memory.backward, param(3).diff, param(4).diff),
        )


def _learns(site: Site) -> bool:
    s: ScaledBatchNormSettings = site.settings
    return s.scale_bias or s.scale_filler is not None or s.bias_filler is not None
