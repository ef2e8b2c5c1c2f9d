"""The rules of all layer types, by Caffe's own type name.

An explicit list: a type that isn't here has no rule. Python layers have none: what they make and
hold depends on their code.
"""

from __future__ import annotations

from collections.abc import Iterable

from caffe_batch.layers.accuracy import Accuracy
from caffe_batch.layers.argmax import ArgMax
from caffe_batch.layers.base import Rule
from caffe_batch.layers.batch_norm import BatchNorm
from caffe_batch.layers.batch_reindex import BatchReindex, Filter
from caffe_batch.layers.concat import Concat, Slice
from caffe_batch.layers.convolution import Convolution, Deconvolution
from caffe_batch.layers.crop import Crop
from caffe_batch.layers.data import Data, ImageData, WindowData
from caffe_batch.layers.distance_loss import ContrastiveLoss, EuclideanLoss
from caffe_batch.layers.eltwise import Eltwise
from caffe_batch.layers.embed import Embed
from caffe_batch.layers.hdf5 import HDF5Data, HDF5Output
from caffe_batch.layers.im2col import Im2col
from caffe_batch.layers.inner_product import InnerProduct
from caffe_batch.layers.input import DummyData, Input
from caffe_batch.layers.label_loss import HingeLoss, MultinomialLogisticLoss
from caffe_batch.layers.lrn import LRN
from caffe_batch.layers.lstm import LSTM, LSTMUnit
from caffe_batch.layers.memory_data import MemoryData
from caffe_batch.layers.mvn import MVN
from caffe_batch.layers.neurons import NEURONS
from caffe_batch.layers.parameter import Parameter
from caffe_batch.layers.pooling import SPP, Pooling
from caffe_batch.layers.prelu import PReLU
from caffe_batch.layers.reduction import Reduction
from caffe_batch.layers.reshape import Flatten, Reshape
from caffe_batch.layers.rnn import RNN
from caffe_batch.layers.scale import Bias, Scale
from caffe_batch.layers.sigmoid_cross_entropy_loss import SigmoidCrossEntropyLoss
from caffe_batch.layers.softmax import Softmax
from caffe_batch.layers.softmax_loss import InfogainLoss, SoftmaxWithLoss
from caffe_batch.layers.split import Silence, Split
from caffe_batch.layers.tile import Tile


def by_type(rules: Iterable[Rule]) -> dict[str, Rule]:
    """The rules by type name.

    Raises:
        ValueError: Two rules have the same type.
    """
    table: dict[str, Rule] = {}
    for rule in rules:
        if rule.type in table:
            raise ValueError(f"two rules for layer type {rule.type!r}")
        table[rule.type] = rule
    return table


RULES: dict[str, Rule] = by_type(
    (
        # data in, data out
        Data(),
        DummyData(),
        HDF5Data(),
        HDF5Output(),
        ImageData(),
        Input(),
        MemoryData(),
        Parameter(),
        WindowData(),
        # convolution and pooling
        Convolution(),
        Deconvolution(),
        Im2col(),
        LRN(),
        Pooling(),
        SPP(),
        # element-wise
        *NEURONS,
        PReLU(),
        # normalisation
        BatchNorm(),
        Bias(),
        MVN(),
        Scale(),
        # fully connected, recurrent
        Embed(),
        InnerProduct(),
        LSTM(),
        LSTMUnit(),
        RNN(),
        # combining and reshaping
        ArgMax(),
        BatchReindex(),
        Concat(),
        Crop(),
        Eltwise(),
        Filter(),
        Flatten(),
        Reduction(),
        Reshape(),
        Silence(),
        Slice(),
        Softmax(),
        Split(),
        Tile(),
        # losses and scores
        Accuracy(),
        ContrastiveLoss(),
        EuclideanLoss(),
        HingeLoss(),
        InfogainLoss(),
        MultinomialLogisticLoss(),
        SigmoidCrossEntropyLoss(),
        SoftmaxWithLoss(),
    )
)
