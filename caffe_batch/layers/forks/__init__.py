"""The rules of layer types that Caffe 1.0 lacks, and of those that forks of it have changed.

A family apart: :data:`ALIKE` has types that mean the same wherever they exist. Where two forks
differ under one name, :data:`DIFFERENT` has a rule for each; ``--fork`` chooses, or else the net's
own types and fields do (:mod:`caffe_batch.net.forks`). Each rule says in ``follows`` which
repository and which files it follows. docs/forks.md is the table of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from caffe_batch.layers.base import Rule
from caffe_batch.layers.forks.annotated_data import AnnotatedData
from caffe_batch.layers.forks.axpy import Axpy
from caffe_batch.layers.forks.bn import BN, SegNetBN
from caffe_batch.layers.forks.c3d import (
    ClipData,
    Convolution3D,
    OlderClipData,
    OlderConvolution3D,
    OlderDeconvolution3D,
    OlderPooling3D,
    Pooling3D,
)
from caffe_batch.layers.forks.cpm_data import CPMData, PoseData
from caffe_batch.layers.forks.ctc import (
    ContinuationIndicator,
    CtcLoss,
    LabelsequenceAccuracy,
    WarpCTCLoss,
)
from caffe_batch.layers.forks.depthwise import ConvolutionDepthwise, DepthwiseConvolution
from caffe_batch.layers.forks.detection import DetectionEvaluate, DetectionOutput
from caffe_batch.layers.forks.faces import CenterLoss, MarginInnerProduct
from caffe_batch.layers.forks.flip import Flip
from caffe_batch.layers.forks.interp import Interp
from caffe_batch.layers.forks.multibox_loss import MultiBoxLoss
from caffe_batch.layers.forks.neurons import Insanity, ReLU6, RReLU, SeLu, SpatialDropout
from caffe_batch.layers.forks.normalize import L2Normalization, Normalize
from caffe_batch.layers.forks.ohem import BoxAnnotatorOHEM, MiningSoftmaxLoss, SoftmaxWithLossOHEM
from caffe_batch.layers.forks.own_types import (
    HostAccuracy,
    SampledDropout,
    ScaledBatchNorm,
    WeightedLoss,
)
from caffe_batch.layers.forks.permute import Permute
from caffe_batch.layers.forks.prefetching import (
    BATCHES,
    OlderData,
    OlderImageData,
    OlderWindowData,
)
from caffe_batch.layers.forks.prior_box import PriorBox
from caffe_batch.layers.forks.python_layers import PYTHON_LAYERS
from caffe_batch.layers.forks.roi_pooling import PSROIPooling, ROIPooling
from caffe_batch.layers.forks.seg_accuracy import SegAccuracy
from caffe_batch.layers.forks.seg_data import DenseImageData, ImageSegData
from caffe_batch.layers.forks.shuffle_channel import ShuffleChannel
from caffe_batch.layers.forks.smooth_l1_loss import (
    SmoothL1Loss,
    SmoothL1LossOHEM,
    WeightedSmoothL1Loss,
)
from caffe_batch.layers.forks.upsample import Upsample
from caffe_batch.layers.forks.video_data import CameraData, VideoData

#: The forks that differ from each other, as ``--fork`` names them; guesses prefer the first ones.
FORKS = ("ssd", "rcnn", "deeplab", "segnet", "pspnet", "nvcaffe", "c3d")

#: Types that are the same in all forks that have them.
ALIKE: tuple[Rule, ...] = (
    AnnotatedData(),
    Axpy(),
    BoxAnnotatorOHEM(),
    CPMData(),
    CenterLoss(),
    ContinuationIndicator(),
    Convolution3D(),
    ConvolutionDepthwise(),
    CtcLoss(),
    DenseImageData(),
    DepthwiseConvolution(),
    DetectionEvaluate(),
    DetectionOutput(),
    Flip(),
    ImageSegData(),
    Insanity(),
    Interp(),
    L2Normalization(),
    LabelsequenceAccuracy(),
    MarginInnerProduct(),
    MultiBoxLoss(),
    Normalize(),
    OlderClipData(),
    OlderConvolution3D(),
    OlderDeconvolution3D(),
    OlderPooling3D(),
    PSROIPooling(),
    Permute(),
    Pooling3D(),
    PoseData(),
    PriorBox(),
    RReLU(),
    ROIPooling(),
    ReLU6(),
    SeLu(),
    SegAccuracy(),
    ShuffleChannel(),
    SmoothL1LossOHEM(),
    SoftmaxWithLossOHEM(),
    SpatialDropout(),
    Upsample(),
    WarpCTCLoss(),
    *PYTHON_LAYERS,
)

#: By type: the rules of the forks that differ; the first one counts where the fork isn't known.
DIFFERENT: Mapping[str, tuple[Rule, ...]] = {
    "BN": (BN(), SegNetBN()),
    "SmoothL1Loss": (SmoothL1Loss(), WeightedSmoothL1Loss()),
    "VideoData": (VideoData(), CameraData(), ClipData()),
}

#: Caffe's own types as single forks have them.
CHANGED: tuple[Rule, ...] = (
    ScaledBatchNorm(),
    SampledDropout(),
    WeightedLoss(),
    MiningSoftmaxLoss(),
    *[
        older(fork)
        for fork in BATCHES
        for older in (HostAccuracy, OlderData, OlderImageData, OlderWindowData)
    ],
)


@cache
def types_of(fork: str | None) -> tuple[Rule, ...]:
    """The types that Caffe 1.0 lacks, as a fork has them; all of them, whoever has them.

    Args:
        fork: One of :data:`FORKS`, or None.
    """
    chosen = [
        next((rule for rule in rules if fork in rule.forks), rules[0])
        for rules in DIFFERENT.values()
    ]
    return (*ALIKE, *chosen)


@cache
def changed_by(fork: str | None) -> Mapping[str, Rule]:
    """The rules of Caffe's own types that a fork has changed, by type."""
    return {rule.type: rule for rule in CHANGED if fork in rule.forks}
