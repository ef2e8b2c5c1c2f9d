"""Which layer types of forks the engine runs, without torch.

By the class of the rule, because two forks may give one name to two layers.
"""

from __future__ import annotations

from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Rule
from caffe_batch.layers.forks import (
    axpy,
    bn,
    depthwise,
    flip,
    interp,
    multibox_loss,
    neurons,
    normalize,
    ohem,
    own_types,
    permute,
    prefetching,
    prior_box,
    roi_pooling,
    seg_accuracy,
    shuffle_channel,
    smooth_l1_loss,
    upsample,
)
from caffe_batch.net.graph import Node

#: The rules of types that run, beside those of Caffe 1.0.
RUNNING: frozenset[type[Rule]] = frozenset({
    axpy.Axpy, bn.BN, bn.SegNetBN, depthwise.ConvolutionDepthwise,
    depthwise.DepthwiseConvolution, flip.Flip, interp.Interp, multibox_loss.MultiBoxLoss,
    neurons.Insanity, neurons.ReLU6, neurons.SeLu, neurons.SpatialDropout,
    normalize.L2Normalization, normalize.Normalize, ohem.BoxAnnotatorOHEM,
    ohem.MiningSoftmaxLoss, ohem.SoftmaxWithLossOHEM, own_types.SampledDropout,
    own_types.WeightedLoss, permute.Permute, prior_box.PriorBox, roi_pooling.PSROIPooling,
    roi_pooling.ROIPooling, seg_accuracy.SegAccuracy, shuffle_channel.ShuffleChannel,
    smooth_l1_loss.SmoothL1Loss, smooth_l1_loss.SmoothL1LossOHEM,
    smooth_l1_loss.WeightedSmoothL1Loss, upsample.Upsample,
})  # fmt: skip
#: Those of Caffe's own types in a fork that calculate what Caffe 1.0 calculates.
SAME: frozenset[type[Rule]] = frozenset({
    own_types.HostAccuracy, prefetching.OlderData, prefetching.OlderImageData,
    prefetching.OlderWindowData,
})  # fmt: skip


def runs(node: Node) -> bool:
    """Whether the engine has this layer's type, as this net's fork means it."""
    kind, rule = node.layer.type, type(node.rule)
    if rule is normalize.Normalize and node.site.settings.normalize_param:
        return False  # caffe-windows', which has gradients of its own
    if rule in RUNNING or rule in SAME:
        return True
    return kind in BUILT_IN and rule is type(BUILT_IN[kind])
