"""The layer types of forks that PyTorch runs, under the file names of their rules.

:data:`FORK_LAYERS` goes by the class of the rule, because two forks may give one name to two
layers. :mod:`caffe_batch.engines.torch.fork_types` lists the same classes without torch.
"""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import TorchLayer
from caffe_batch.engines.torch.layers.forks import (
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
    prior_box,
    roi_pooling,
    seg_accuracy,
    shuffle_channel,
    smooth_l1_loss,
    upsample,
)
from caffe_batch.layers.base import Rule
from caffe_batch.layers.forks import axpy as of_axpy
from caffe_batch.layers.forks import bn as of_bn
from caffe_batch.layers.forks import depthwise as of_depthwise
from caffe_batch.layers.forks import flip as of_flip
from caffe_batch.layers.forks import interp as of_interp
from caffe_batch.layers.forks import multibox_loss as of_multibox_loss
from caffe_batch.layers.forks import neurons as of_neurons
from caffe_batch.layers.forks import normalize as of_normalize
from caffe_batch.layers.forks import ohem as of_ohem
from caffe_batch.layers.forks import own_types as of_own_types
from caffe_batch.layers.forks import permute as of_permute
from caffe_batch.layers.forks import prior_box as of_prior_box
from caffe_batch.layers.forks import roi_pooling as of_roi_pooling
from caffe_batch.layers.forks import seg_accuracy as of_seg_accuracy
from caffe_batch.layers.forks import shuffle_channel as of_shuffle_channel
from caffe_batch.layers.forks import smooth_l1_loss as of_smooth_l1_loss
from caffe_batch.layers.forks import upsample as of_upsample

FORK_LAYERS: dict[type[Rule], type[TorchLayer]] = {
    of_axpy.Axpy: axpy.Axpy,
    of_bn.BN: bn.BN,
    of_ohem.BoxAnnotatorOHEM: ohem.BoxAnnotatorOHEM,
    of_depthwise.ConvolutionDepthwise: depthwise.ConvolutionDepthwise,
    of_depthwise.DepthwiseConvolution: depthwise.DepthwiseConvolution,
    of_flip.Flip: flip.Flip,
    of_neurons.Insanity: neurons.Insanity,
    of_interp.Interp: interp.Interp,
    of_normalize.L2Normalization: normalize.L2Normalization,
    of_ohem.MiningSoftmaxLoss: ohem.SoftmaxWithLossOHEM,
    of_multibox_loss.MultiBoxLoss: multibox_loss.MultiBoxLoss,
    of_normalize.Normalize: normalize.Normalize,
    of_roi_pooling.PSROIPooling: roi_pooling.PSROIPooling,
    of_permute.Permute: permute.Permute,
    of_prior_box.PriorBox: prior_box.PriorBox,
    of_roi_pooling.ROIPooling: roi_pooling.ROIPooling,
    of_neurons.ReLU6: neurons.ReLU6,
    of_own_types.SampledDropout: own_types.SampledDropout,
    of_neurons.SeLu: neurons.SeLu,
    of_seg_accuracy.SegAccuracy: seg_accuracy.SegAccuracy,
    of_bn.SegNetBN: bn.SegNetBN,
    of_shuffle_channel.ShuffleChannel: shuffle_channel.ShuffleChannel,
    of_smooth_l1_loss.SmoothL1Loss: smooth_l1_loss.SmoothL1Loss,
    of_smooth_l1_loss.SmoothL1LossOHEM: smooth_l1_loss.SmoothL1LossOHEM,
    of_ohem.SoftmaxWithLossOHEM: ohem.SoftmaxWithLossOHEM,
    of_neurons.SpatialDropout: neurons.SpatialDropout,
    of_upsample.Upsample: upsample.Upsample,
    of_own_types.WeightedLoss: own_types.WeightedLoss,
    of_smooth_l1_loss.WeightedSmoothL1Loss: smooth_l1_loss.WeightedSmoothL1Loss,
}
